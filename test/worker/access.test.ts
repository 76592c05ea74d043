/** Whether the permissions of a worker in docs/valkey-access.md suffice, and whether all of them are used. */

import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { cancelFlow } from "#sdk/cancellation/cancel-flow.ts";
import { replayExecution } from "#sdk/replay-execution.ts";
import { ReplicatedValkey } from "#sdk/replicated-valkey.ts";
import { submitFlow } from "#sdk/submission/submit.ts";
import { type ClaimedExecution, claimBatch } from "#sdk/worker/claim.ts";
import { promoteDue } from "#sdk/worker/promote.ts";
import { type ExecutionHandler, workBatch } from "#sdk/worker/worker.ts";
import type { Pipelines } from "#shared/contract/command.ts";
import { parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { renewLease } from "#shared/contract/upkeep.ts";
import { replyOrThrow, valueOrThrow } from "#shared/valkey/batches.ts";
import { Valkey } from "#shared/valkey/client.ts";
import { readValkey } from "#shared/valkey/config.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { accessOf, KINDS, SecuredValkey } from "#test/auth/secured.ts";
import { LANE, RecordingPublisher, task, workflowOf } from "#test/submission/fixture.ts";
import { newFlowId, ROUTER } from "#test/support/flow-fixture.ts";
import { RecordedReady } from "#test/support/ready.ts";
import { connectTo, run } from "#test/support/valkey.ts";

const DOCS = new URL("../../docs/valkey-access.md", import.meta.url);
const USER = "worker";
const PASSWORD = "of-the-worker";
const TIMEOUT = 60_000;

const OTHER_LANE = unwrap(parseLaneId("other"));
const ONE = { limit: 1, leaseTtlMs: 1 };

const commands = new Set<string>();
const keys = new Set<string>();

function documentedRules(): string[] {
  const [, block = ""] = /\nworker\n\n```\n([^`]*)```/.exec(readFileSync(DOCS, "utf8")) ?? [];
  return block.trim().split(/\s+/);
}

function rulesOf(mark: string): string[] {
  return documentedRules().flatMap((rule) => (rule.startsWith(mark) ? [rule.slice(1)] : []));
}

/** Waits for the end of a lease and renews it, which marks it as expired. */
async function loseLease(valkey: Pipelines, claims: readonly ClaimedExecution[]): Promise<void> {
  expect(claims).toHaveLength(1);
  const renewals = claims.map(({ target, lease }) => renewLease(target, lease, { ttlMs: 1, graceMs: 0 }));
  for (;;) {
    const [reply] = (await valkey.pipelined(renewals)).map((result) => replyOrThrow(valueOrThrow(result)));
    if (reply?.kind !== "refused") continue;
    expect(reply.code).toBe("lease_expired");
    return;
  }
}

test.each(KINDS)(
  "a worker may submit, claim, renew, complete, fail, retry, reclaim, replay, cancel a flow and wait for replicas (%s)",
  async (kind) => {
    await using server = await SecuredValkey.start(kind, 1);
    const admin = connectTo(server.plain);
    await ensureLibrary(admin);
    admin.close();
    await server.setUser(USER, PASSWORD, documentedRules());
    await using watched = await server.watch();
    const address = readValkey(server.as(USER, PASSWORD), []);
    const valkey = new ReplicatedValkey(
      (knownNodes) =>
        new Valkey(address, {
          knownNodes,
          onConnectionError: (error) => {
            throw error;
          },
        }),
      { waitReplicas: kind === "cluster" ? 1 : 0 },
    );
    const completions = new RecordingPublisher();
    const retry = { attempts: 2, backoff: { type: "fixed", delayMs: 0 } } as const;
    const workflow = workflowOf("a>c", "b=>c");
    const tasks = [
      ...workflow.tasks,
      task("d", { retry }),
      task("e", { lane: OTHER_LANE }),
      task("f", { delaySeconds: 60 }),
    ];
    const flowId = newFlowId();
    const submit = () =>
      submitFlow(
        { valkey, router: ROUTER, completions, ready: new RecordedReady() },
        { ...workflow, tasks },
        { flowId },
      );
    const { partition, executions } = await submit();
    // An execution with a lease history, such as one that an operator replayed.
    const [replayed] = [...executions.values()].map((id) => ROUTER.execKeys(id).leaseHistory);
    const operator = connectTo(server.plain);
    await run(operator, partition, "xadd", replayed ?? "", "*", "event", "replay_initiated");
    operator.close();
    const source = { partition, lane: LANE };
    const deps = { valkey, router: ROUTER, completions, identity: { workerId: "w", instanceId: "w-1" } };
    const handler: ExecutionHandler = ({ id }) =>
      Promise.resolve(
        id === executions.get("a")
          ? { outcome: "success", result: "done" }
          : { outcome: "failed", reason: "no" },
      );
    const worked = await workBatch(deps, source, handler, { limit: 3 });
    expect(worked.map(({ status }) => status).sort()).toEqual(["completed", "failed", "retry_scheduled"]);
    expect(await promoteDue(deps, source)).toBe(1);
    const other = { partition, lane: OTHER_LANE };
    // The sixth time, the execution fails instead.
    for (let attempt = 0; attempt < 6; attempt += 1)
      await loseLease(valkey, await claimBatch(deps, other, ONE));
    expect(await claimBatch(deps, other, ONE)).toEqual([]);
    expect(completions.executionIds).toContain(executions.get("e"));
    // The second submission finds everything, and reads the states of the edges.
    await submit();
    await claimBatch(deps, source, { limit: 1 });
    // A flow that Sluice 0.1 created: nothing counts its members.
    const counts = connectTo(server.plain);
    await run(counts, partition, "del", ROUTER.flowKeys(flowId).summary);
    counts.close();
    const failed = executions.get("b");
    if (failed === undefined) throw new Error("no execution for b");
    expect(await replayExecution({ valkey, router: ROUTER }, failed)).toMatchObject({ status: "replayed" });
    const cancel = () => cancelFlow({ valkey, router: ROUTER }, flowId, { reason: "enough" });
    expect(await cancel()).toMatchObject({ cancelled: 4, failures: [] });
    // The second call finds the flow cancelled, and looks for members that are still pending.
    expect(await cancel()).toMatchObject({ wasCancelled: true, failures: [] });
    valkey.close();
    for (const command of await server.commandsRun()) commands.add(command);
    for (const key of watched.keys) keys.add(key);
    expect(await server.refusals()).toEqual([]);
  },
  TIMEOUT,
);

test("the documentation and access.json allow only what a worker uses, by itself or in the dispatcher inside it", () => {
  const dispatch = accessOf("dispatch");
  expect(documentedRules()).toEqual(accessOf("worker"));
  const ofDispatch = dispatch.flatMap((rule) => (rule.startsWith("+") ? [rule.slice(1)] : []));
  expect(rulesOf("+").toSorted()).toEqual([...new Set([...commands, ...ofDispatch])].toSorted());
  const others = rulesOf("~").filter((pattern) => !dispatch.includes(`~${pattern}`));
  const prefixes = others.map((pattern) => pattern.replace(/\*$/, ""));
  expect(prefixes.filter((prefix) => ![...keys].some((key) => key.startsWith(prefix)))).toEqual([]);
});

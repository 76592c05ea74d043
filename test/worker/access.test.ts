/** Whether the permissions of a worker in docs/valkey-access.md suffice, and whether all of them are used. */

import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { cancelFlow } from "#sdk/cancellation/cancel-flow.ts";
import { ReplicatedValkey } from "#sdk/replicated-valkey.ts";
import { submitFlow } from "#sdk/submission/submit.ts";
import { claimBatch } from "#sdk/worker/claim.ts";
import { promoteDue } from "#sdk/worker/promote.ts";
import { type ExecutionHandler, workBatch } from "#sdk/worker/worker.ts";
import { Valkey } from "#shared/valkey/client.ts";
import { readValkey } from "#shared/valkey/config.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { KINDS, SecuredValkey } from "#test/auth/secured.ts";
import { LANE, RecordingPublisher, task, workflowOf } from "#test/submission/fixture.ts";
import { newFlowId, ROUTER } from "#test/support/flow-fixture.ts";
import { connectTo } from "#test/support/valkey.ts";

const DOCS = new URL("../../docs/valkey-access.md", import.meta.url);
const USER = "worker";
const PASSWORD = "of-the-worker";
const TIMEOUT = 60_000;

const commands = new Set<string>();
const keys = new Set<string>();

function documentedRules(): string[] {
  const [, block = ""] = /\nworker\n\n```\n([^`]*)```/.exec(readFileSync(DOCS, "utf8")) ?? [];
  return block.trim().split(/\s+/);
}

function rulesOf(mark: string): string[] {
  return documentedRules().flatMap((rule) => (rule.startsWith(mark) ? [rule.slice(1)] : []));
}

test.each(KINDS)(
  "a worker may submit, claim, complete, fail, retry, cancel a flow and wait for replicas (%s)",
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
    const retryPolicy = { maxRetries: 1, backoff: { type: "fixed", delayMs: 0 } } as const;
    const workflow = workflowOf("a>c", "b=>c");
    const tasks = [...workflow.tasks, task("d", { retryPolicy })];
    const flowId = newFlowId();
    const submit = () =>
      submitFlow({ valkey, router: ROUTER, completions }, { ...workflow, tasks }, { flowId });
    const { partition, executions } = await submit();
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
    // The second submission finds everything, and reads the states of the edges.
    await submit();
    await claimBatch(deps, source, { limit: 1 });
    const cancel = () => cancelFlow({ valkey, router: ROUTER }, flowId, { reason: "enough" });
    expect(await cancel()).toMatchObject({ cancelled: 2, failures: [] });
    // The second call finds the flow cancelled, and looks for members that are still pending.
    expect(await cancel()).toMatchObject({ wasCancelled: true, failures: [] });
    valkey.close();
    for (const command of await server.commandsRun()) commands.add(command);
    for (const key of watched.keys) keys.add(key);
    expect(await server.refusals()).toEqual([]);
  },
  TIMEOUT,
);

test("the documentation lists only commands and key patterns that a worker uses", () => {
  expect(rulesOf("+").toSorted()).toEqual([...commands].toSorted());
  const prefixes = rulesOf("~").map((pattern) => pattern.replace(/\*$/, ""));
  expect(prefixes.filter((prefix) => ![...keys].some((key) => key.startsWith(prefix)))).toEqual([]);
});

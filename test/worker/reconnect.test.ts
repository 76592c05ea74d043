/** Workers keep their executions when the connection to Valkey breaks between the claim and the completion. */

import { describe, expect, onTestFinished, test } from "vitest";
import { ReconnectingValkey } from "#sdk/reconnecting-valkey.ts";
import { submitFlow } from "#sdk/submission/submit.ts";
import { type WorkDependencies, workBatch } from "#sdk/worker/worker.ts";
import type { Pipelines } from "#shared/contract/command.ts";
import { ValkeyError } from "#shared/errors.ts";
import { Valkey } from "#shared/valkey/client.ts";
import { InterceptedPipelines, LANE, RecordingPublisher, recordOf, task } from "#test/submission/fixture.ts";
import { newFlowId, ROUTER } from "#test/support/flow-fixture.ts";
import { TcpProxy } from "#test/support/tcp-proxy.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

const [STANDALONE] = DEPLOYMENTS;
if (STANDALONE?.name !== "standalone") throw new Error("the first deployment is the standalone one");
const SUCCESS = { outcome: "success", result: "" } as const;
const IDENTITY = { workerId: "w", instanceId: "w-1" };

/** Submits one task, and connects a worker through a proxy that the test can cut. */
async function fixture() {
  const direct = STANDALONE?.connect() as Valkey;
  const proxy = await TcpProxy.before(STANDALONE?.address.url as URL);
  const valkey = new ReconnectingValkey(() => connectThrough(proxy));
  onTestFinished(async () => {
    valkey.close();
    direct.close();
    await proxy[Symbol.asyncDispose]();
  });
  const completions = new RecordingPublisher();
  const { partition, executions } = await submitFlow(
    { valkey: direct, router: ROUTER, completions },
    { name: "one", tasks: [task("a")], edges: [] },
    { flowId: newFlowId() },
  );
  const id = executions.get("a");
  if (id === undefined) throw new Error("the flow has no execution");
  const depsWith = (pipelines: Pipelines): WorkDependencies => ({
    valkey: pipelines,
    router: ROUTER,
    completions,
    identity: IDENTITY,
  });
  return { direct, proxy, valkey, completions, id, depsWith, source: { partition, lane: LANE } };
}

function connectThrough(proxy: TcpProxy): Valkey {
  // The cut connections are expected.
  return new Valkey({ url: proxy.url, cluster: false }, { onConnectionError: () => undefined });
}

describe("a connection that is cut", () => {
  test.each([
    [4, "before the payload is read"],
    [5, "before the outcome is written"],
    [6, "before the flow id is read"],
  ])("at pipeline %i, %s, is replaced, and the execution completes", async (cutAt) => {
    const { direct, proxy, valkey, completions, id, depsWith, source } = await fixture();
    const cutting = new InterceptedPipelines(valkey, (call, send) => {
      if (call === cutAt) proxy.cut();
      return send();
    });
    const worked = await workBatch(depsWith(cutting), source, () => Promise.resolve(SUCCESS), { limit: 1 });
    expect(worked).toEqual([{ id, status: "completed" }]);
    expect(completions.executionIds).toEqual([id]);
    expect(proxy.connections).toBe(2);
    expect(await recordOf(direct, id, "public_state")).toEqual({ public_state: "completed" });
  });

  test("while the handler runs, and refused at the first retry, is replaced at a later retry", async () => {
    const { proxy, valkey, completions, id, depsWith, source } = await fixture();
    const refusingTwice = new InterceptedPipelines(valkey, async (call, send) => {
      const results = await send();
      // Pipelines 5 and 6 are the write and its first retry.
      if (call === 6) proxy.mode = "pass";
      return results;
    });
    const cut = () => {
      proxy.mode = "refuse";
      proxy.cut();
      return Promise.resolve(SUCCESS);
    };
    const worked = await workBatch(depsWith(refusingTwice), source, cut, { limit: 1 });
    expect(worked).toEqual([{ id, status: "completed" }]);
    expect(completions.executionIds).toEqual([id]);
    expect(proxy.connections).toBeGreaterThan(2);
  });

  test("before anything is claimed fails the round; the next round reconnects", async () => {
    const { proxy, valkey, id, depsWith, source } = await fixture();
    const work = () => workBatch(depsWith(valkey), source, () => Promise.resolve(SUCCESS), { limit: 1 });
    const [ping] = await valkey.pipelined([{ partition: source.partition, name: "ping", args: [] }]);
    expect(ping).toEqual({ ok: true, value: "PONG" });
    proxy.cut();
    await expect(work()).rejects.toThrow(ValkeyError);
    expect(await work()).toEqual([{ id, status: "completed" }]);
  });

  test("is not replaced by a plain client, and the outcome fails after the last retry", async () => {
    const { proxy, id, depsWith, source } = await fixture();
    const plain = connectThrough(proxy);
    onTestFinished(() => plain.close());
    const cut = () => {
      proxy.cut();
      return Promise.resolve(SUCCESS);
    };
    const deps = { ...depsWith(plain), retryDelaysMs: [1, 1] };
    await expect(workBatch(deps, source, cut, { limit: 1 })).rejects.toThrow(
      `could not write the outcome of ${id}: `,
    );
  });
});

test("a closed ReconnectingValkey does not connect again", async () => {
  const { proxy, valkey, source } = await fixture();
  const ping = { partition: source.partition, name: "ping", args: [] };
  await valkey.pipelined([ping]);
  valkey.close();
  const [result] = await valkey.pipelined([ping]);
  expect(result).toMatchObject({ ok: false, error: expect.any(ValkeyError) });
  expect(proxy.connections).toBe(1);
});

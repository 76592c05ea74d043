import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { planSubmission } from "#sdk/submission/plan.ts";
import type { RunOutcome } from "#sdk/worker/finish.ts";
import { workBatch } from "#sdk/worker/worker.ts";
import type { Pipelines, ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";
import type { FlowId } from "#shared/contract/ids.ts";
import { addExecutionToFlow, createExecution, createFlow } from "#shared/contract/submission.ts";
import { doneOrThrow, valueOrThrow } from "#shared/valkey/batches.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import {
  InterceptedPipelines,
  type Interceptor,
  LANE,
  RecordingPublisher,
  workflowOf,
} from "#test/submission/fixture.ts";
import {
  DIAMOND,
  expectAllSucceeded,
  expectWholeGraph,
  IDENTITY,
  idOf,
  runToEnd,
  submit,
  succeedIfUpstreamsEnded,
} from "#test/submission/flow-checks.ts";
import { newFlowId, ROUTER } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS, run } from "#test/support/valkey.ts";

/** `c` and `e` have two upstreams each. */
const TWO_ROOTS = workflowOf("a>c", "b>c", "b=>d", "c>e", "d>e");

describe.each(DEPLOYMENTS)("a submission that is interrupted ($name)", ({ connect }) => {
  let valkey: Valkey;
  beforeAll(() => {
    valkey = connect();
  });
  afterAll(() => valkey.close());

  /** Creates the root `a` of DIAMOND as Sluice 0.1 does, eligible at once, and lets a worker end it. */
  async function endRootEarly(flowId: FlowId, outcome: RunOutcome): Promise<void> {
    const { flow, index, tasks } = planSubmission(ROUTER, DIAMOND, flowId, "default");
    const { keys, task: root } = tasks[0] ?? expect.fail("no task");
    const results = await valkey.pipelined([
      createFlow(flow, index, "dag", "default", Date.now()),
      createExecution({
        keys,
        index,
        namespace: "default",
        lane: LANE,
        kind: "task",
        priority: 0,
        creator: "sluice",
        policyJson: "",
        payload: root.payload,
      }),
      addExecutionToFlow(flow, index, keys, Date.now()),
    ]);
    for (const result of results) doneOrThrow("call", valueOrThrow(result));
    const worked = await workBatch(
      { valkey, router: ROUTER, completions: new RecordingPublisher(), identity: IDENTITY },
      { partition: flow.partition, lane: LANE },
      () => Promise.resolve(outcome),
      { limit: 10 },
    );
    expect(worked).toHaveLength(1);
  }

  test("the completion of a root that failed before its edges were staged is published as failed", async () => {
    const flowId = newFlowId();
    await endRootEarly(flowId, { outcome: "failed", reason: "it broke" });
    const completions = new RecordingPublisher();
    const submission = await submit(valkey, DIAMOND, flowId, completions);
    const root = idOf(submission, "a");
    expect(completions.sent).toEqual([{ executionId: root, flowId, outcome: "failed", depth: 0, root }]);
    expect(submission.completionsSent).toBe(1);
  });

  test("an error inside a transaction fails the submission", async () => {
    const flowId = newFlowId();
    const plan = planSubmission(ROUTER, DIAMOND, flowId, "default");
    const child = plan.tasks.find(({ task: { id } }) => id === "d");
    if (child === undefined) throw new Error("no such task");
    await run(valkey, plan.flow.partition, "set", child.keys.depsMeta, "no hash");
    await expect(submit(valkey, DIAMOND, flowId)).rejects.toThrow(/WRONGTYPE.*at least 0 of 5 executions/s);
  });

  test("a lost reply fails the submission, and the next one completes it", async () => {
    for (const lost of [1, 2, 3, 4, 5]) {
      const flowId = newFlowId();
      const lossy = new InterceptedPipelines(valkey, async (call, send) => {
        const results = await send();
        return call === lost ? results.map(() => ({ ok: false, error: new Error("reply lost") })) : results;
      });
      await expect(submit(lossy, DIAMOND, flowId)).rejects.toThrow(/reply lost.*it is safe to submit again/);
      await expectWholeGraph(valkey, await submit(valkey, DIAMOND, flowId), DIAMOND);
    }
  });

  /** A worker that runs everything eligible after each pipeline. */
  const workAfterEach =
    (flowId: FlowId): Interceptor =>
    async (_, send) => {
      const results = await send();
      await workBatch(
        { valkey, router: ROUTER, completions: new RecordingPublisher(), identity: IDENTITY },
        { partition: ROUTER.flowPartition(flowId), lane: LANE },
        () => Promise.resolve({ outcome: "success", result: "" }),
        { limit: 10 },
      );
      return results;
    };
  const sendOnly = (): Interceptor => (_, send) => send();

  test.each([
    ["no worker", sendOnly],
    ["a worker that runs everything eligible", workAfterEach],
  ])(
    "with %s, a pipeline that returns too few results fails the submission at any call",
    async (_, start) => {
      const flowId = newFlowId();
      const counter = new InterceptedPipelines(valkey, start(flowId));
      await submit(counter, DIAMOND, flowId);
      for (let short = 1; short <= counter.calls; short += 1) {
        const id = newFlowId();
        const intercept = start(id);
        const shortened = new InterceptedPipelines(valkey, async (call, send, commands) => {
          const results = await intercept(call, send, commands);
          return call === short ? results.slice(0, -1) : results;
        });
        await expect(submit(shortened, DIAMOND, id)).rejects.toThrow("the pipeline returned no result");
        await expectWholeGraph(valkey, await submit(valkey, DIAMOND, id), DIAMOND);
      }
    },
  );

  test("a publisher that returns too few results fails the submission; the next one publishes again", async () => {
    const flowId = newFlowId();
    await endRootEarly(flowId, { outcome: "success", result: "" });
    const short = new RecordingPublisher();
    short.send = () => Promise.resolve([]);
    await expect(submit(valkey, DIAMOND, flowId, short)).rejects.toThrow(
      "the publisher returned no result for",
    );
    const completions = new RecordingPublisher();
    const submission = await submit(valkey, DIAMOND, flowId, completions);
    expect(completions.executionIds).toEqual([idOf(submission, "a")]);
  });

  test("a submission that dies after any command starts nothing early, and the next one completes it", async () => {
    const counter = new CutPipelines(connect(), Number.POSITIVE_INFINITY);
    await submit(counter, TWO_ROOTS);
    counter.close();
    expect(counter.commands).toBeGreaterThan(30);
    for (let cut = 1; cut < counter.commands; cut += 1) {
      const flowId = newFlowId();
      const { partition, core } = ROUTER.flowKeys(flowId);
      const completions = new RecordingPublisher();
      const dying = new CutPipelines(connect(), cut);
      await expect(submit(dying, TWO_ROOTS, flowId, completions)).rejects.toThrow("the process died");
      const worked = await workBatch(
        { valkey, router: ROUTER, completions, identity: IDENTITY },
        { partition, lane: LANE },
        succeedIfUpstreamsEnded(valkey, flowId, TWO_ROOTS),
        { limit: 10 },
      );
      if (worked.length > 0) {
        expect(await run(valkey, partition, "hget", core, "edge_count")).toBe(String(TWO_ROOTS.edges.length));
      }
      const submission = await submit(valkey, TWO_ROOTS, flowId, completions);
      await expectWholeGraph(valkey, submission, TWO_ROOTS);
      await runToEnd(valkey, submission, TWO_ROOTS, completions);
      await expectAllSucceeded(valkey, submission, TWO_ROOTS);
    }
  });
});

/** Sends the first `limit` commands on its own connection, then closes it and rejects, like a process that dies. */
class CutPipelines implements Pipelines {
  readonly #connection: Valkey;
  readonly #limit: number;
  commands = 0;

  constructor(connection: Valkey, limit: number) {
    this.#connection = connection;
    this.#limit = limit;
  }

  async pipelined(commands: readonly ValkeyCommand[]): Promise<ValkeyResult[]> {
    const left = this.#limit - this.commands;
    this.commands += commands.length;
    if (commands.length <= left) return this.#connection.pipelined(commands);
    if (left > 0) await this.#connection.pipelined(commands.slice(0, left));
    this.close();
    throw new Error("the process died");
  }

  close(): void {
    this.#connection.close();
  }
}

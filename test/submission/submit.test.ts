import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { planSubmission } from "#sdk/submission/plan.ts";
import { type Submission, type SubmitProgress, submitFlow } from "#sdk/submission/submit.ts";
import type { Workflow } from "#sdk/submission/workflow.ts";
import { workBatch } from "#sdk/worker/worker.ts";
import { command, type Pipelines } from "#shared/contract/command.ts";
import { type FlowId, parseAttemptIndex, unwrap } from "#shared/contract/ids.ts";
import { fieldText, isTerminalOutcome } from "#shared/contract/record.ts";
import { resolveDependency } from "#shared/contract/resolve.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import {
  InterceptedPipelines,
  type Interceptor,
  LANE,
  RecordingPublisher,
  recordOf,
  task,
  workflowOf,
} from "#test/submission/fixture.ts";
import { newFlowId, ROUTER } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS, run, snapshot } from "#test/support/valkey.ts";

const DIAMOND = workflowOf("a>b", "a=>c", "b>d", "c>d", "d>e");
const IDENTITY = { workerId: "worker", instanceId: "worker-1" };

function submit(
  valkey: Pipelines,
  workflow: Workflow,
  flowId = newFlowId(),
  completions = new RecordingPublisher(),
  onProgress?: (progress: SubmitProgress) => void,
): Promise<Submission> {
  return submitFlow(
    { valkey, router: ROUTER, completions },
    workflow,
    onProgress === undefined ? { flowId } : { flowId, onProgress },
  );
}

describe.each(DEPLOYMENTS)("submitFlow ($name)", ({ connect }) => {
  let valkey: Valkey;
  beforeAll(() => {
    valkey = connect();
  });
  afterAll(() => valkey.close());

  const idOf = (submission: Submission, id: string) => {
    const execution = submission.executions.get(id);
    if (execution === undefined) throw new Error(`no execution for ${id}`);
    return execution;
  };

  /** Checks the invariants of a submitted flow. They hold no matter what has run meanwhile. */
  async function expectWholeGraph(submission: Submission, workflow: Workflow): Promise<void> {
    const { flow } = planSubmission(ROUTER, workflow, submission.flowId, "default");
    const [nodes, edges, revision] = await read(
      "hmget",
      flow.core,
      "node_count",
      "edge_count",
      "graph_revision",
    );
    expect([nodes, edges]).toEqual([workflow.tasks.length, workflow.edges.length].map(String));
    expect(revision).toBe(String(workflow.tasks.length + workflow.edges.length));
    expect((await read("smembers", flow.members)).length).toBe(workflow.tasks.length);
    for (const { id } of workflow.tasks) {
      const execution = idOf(submission, id);
      const incoming = workflow.edges.filter(({ to }) => to === id).length;
      const outgoing = workflow.edges.filter(({ from }) => from === id).length;
      expect(await read("smembers", flow.incoming(execution))).toHaveLength(incoming);
      expect(await read("smembers", flow.outgoing(execution))).toHaveLength(outgoing);
      expect(await read("smembers", ROUTER.execKeys(execution).depsAllEdges)).toHaveLength(incoming);
      expect(await recordOf(valkey, execution, "flow_id")).toEqual({ flow_id: submission.flowId });
    }

    async function read(name: string, ...args: string[]): Promise<string[]> {
      const value = await run(valkey, submission.partition, name, ...args);
      return Array.isArray(value) ? value.map(fieldText) : [];
    }
  }

  /** Resolves children from the recorded completions, as the dispatcher does, and works until nothing is eligible. */
  async function runToEnd(
    submission: Submission,
    workflow: Workflow,
    completions: RecordingPublisher,
  ): Promise<void> {
    const { flow, index, tasks } = planSubmission(ROUTER, workflow, submission.flowId, "default");
    const place = { partition: submission.partition, lane: LANE };
    for (;;) {
      const taken = completions.sent.splice(0);
      for (const { executionId, outcome } of taken) {
        if (!isTerminalOutcome(outcome)) throw new TypeError(`not a terminal outcome: ${outcome}`);
        const out = await run(valkey, submission.partition, "smembers", flow.outgoing(executionId));
        const staged = new Set(Array.isArray(out) ? out.map(fieldText) : []);
        const edges = tasks
          .flatMap(({ outgoing }) => outgoing)
          .filter(({ edge }) => edge.upstream === executionId);
        for (const { edge, child } of edges.filter(({ edge }) => staged.has(edge.id))) {
          await valkey.pipelined([
            resolveDependency(
              {
                edge: edge.id,
                upstream: executionId,
                flow,
                flowIndex: index,
                child,
                lane: index.lane(LANE),
                attempt: unwrap(parseAttemptIndex("")),
              },
              { outcome, completedAt: "" },
              Date.now(),
            ),
          ]);
        }
      }
      const worked = await workBatch(
        { valkey, router: ROUTER, completions, identity: IDENTITY },
        place,
        () => Promise.resolve({ outcome: "success", result: "" }),
        { limit: 10 },
      );
      if (worked.length === 0 && completions.sent.length === 0) return;
    }
  }

  async function expectAllSucceeded(submission: Submission, workflow: Workflow): Promise<void> {
    for (const { id } of workflow.tasks) {
      expect(await recordOf(valkey, idOf(submission, id), "terminal_outcome", "total_attempt_count")).toEqual(
        {
          terminal_outcome: "success",
          total_attempt_count: "1",
        },
      );
    }
  }

  test("roots are eligible, children are blocked, and records hold lane, priority, policy and payload", async () => {
    const workflow: Workflow = {
      ...DIAMOND,
      tasks: DIAMOND.tasks.map(({ id }) =>
        task(
          id,
          id === "a"
            ? { priority: 7, retryPolicy: { maxRetries: 2, backoff: { type: "fixed", delayMs: 9 } } }
            : {},
        ),
      ),
    };
    const progress: SubmitProgress[] = [];
    const completions = new RecordingPublisher();
    const submission = await submit(valkey, workflow, newFlowId(), completions, (step) =>
      progress.push(step),
    );

    await expectWholeGraph(submission, workflow);
    expect(submission).toMatchObject({ taskCount: 5, edgeCount: 5, completionsSent: 0 });
    expect(completions.sent).toEqual([]);
    expect([...submission.executions.keys()]).toEqual(["a", "b", "c", "d", "e"]);
    expect(submission.tasks.get(idOf(submission, "c"))).toBe("c");
    expect(progress.at(-1)).toEqual({ executions: 5, members: 5, edges: 5, tasksTotal: 5, edgesTotal: 5 });

    const fields = ["lane_id", "priority", "namespace", "public_state", "lifecycle_phase"];
    expect(await recordOf(valkey, idOf(submission, "a"), ...fields)).toEqual({
      lane_id: "default",
      priority: "7",
      namespace: "default",
      public_state: "waiting",
      lifecycle_phase: "runnable",
    });
    expect(await recordOf(valkey, idOf(submission, "d"), "public_state")).toEqual({
      public_state: "waiting_children",
    });
    const root = ROUTER.execKeys(idOf(submission, "a"));
    expect(await run(valkey, root.partition, "get", root.payload)).toBe("input of a");
    expect(await run(valkey, root.partition, "get", root.policy)).toBe(
      '{"retry_policy":{"max_retries":2,"backoff":{"type":"fixed","delay_ms":9}}}',
    );
    const lane = ROUTER.indexKeys(submission.partition).lane(LANE);
    expect(await run(valkey, root.partition, "zrange", lane.eligible, 0, -1)).toEqual([root.id]);
    expect(await run(valkey, root.partition, "zcard", lane.blockedDependencies)).toBe(4);

    const plan = planSubmission(ROUTER, workflow, submission.flowId, "default");
    const passing = plan.tasks
      .flatMap(({ outgoing }) => outgoing)
      .filter(({ edge }) => edge.dataPassingRef !== "");
    expect(passing.map(({ child }) => child.id)).toEqual([idOf(submission, "c")]);
  });

  test("a second submission changes nothing", async () => {
    const flowId = newFlowId();
    const first = await submit(valkey, DIAMOND, flowId);
    const before = await snapshot(valkey, first.partition);
    const completions = new RecordingPublisher();
    expect(await submit(valkey, DIAMOND, flowId, completions)).toEqual(first);
    expect(completions.sent).toEqual([]);
    expect(await snapshot(valkey, first.partition)).toEqual(before);
  });

  test("another workflow with the same flow id is refused, and nothing is written", async () => {
    const flowId = newFlowId();
    const { partition } = await submit(valkey, DIAMOND, flowId);
    const before = await snapshot(valkey, partition);
    for (const other of [workflowOf("a>b", "b>z"), workflowOf("a>b", "a=>c", "b>d", "c>d", "d>e", "a>e")]) {
      await expect(submit(valkey, other, flowId)).rejects.toThrow(
        /belongs to another workflow.*nothing was written/,
      );
      expect(await snapshot(valkey, partition)).toEqual(before);
    }
  });

  test("a workflow with a cycle is refused, and nothing is written", async () => {
    const flowId = newFlowId();
    await expect(submit(valkey, workflowOf("a>b", "b>a"), flowId)).rejects.toThrow(/cycle/);
    expect(await snapshot(valkey, ROUTER.flowPartition(flowId))).toEqual({});
  });

  test("submitting to a flow that was cancelled half-way is refused, and nothing is written", async () => {
    const flowId = newFlowId();
    const { flow, partition } = { flow: ROUTER.flowKeys(flowId), partition: ROUTER.flowPartition(flowId) };
    const cut = new InterceptedPipelines(valkey, (call, send) =>
      call > 2 ? Promise.reject(new Error("cut off")) : send(),
    );
    await expect(submit(cut, DIAMOND, flowId)).rejects.toThrow(/it is safe to submit again/);
    await run(valkey, partition, "hset", flow.core, "public_flow_state", "cancelled");
    const before = await snapshot(valkey, partition);
    await expect(submit(valkey, DIAMOND, flowId)).rejects.toThrow(/is cancelled and contains 0 of 5/);
    expect(await snapshot(valkey, partition)).toEqual(before);
  });

  test("the next submission completes one that crashed at any call, even if a worker ran meanwhile", async () => {
    const counter = new InterceptedPipelines(valkey, (_, send) => send());
    await submit(counter, DIAMOND);
    expect(counter.calls).toBeGreaterThan(5);
    for (let crash = 1; crash <= counter.calls; crash += 1) {
      for (const written of [false, true]) {
        const flowId = newFlowId();
        const completions = new RecordingPublisher();
        const crashing = new InterceptedPipelines(valkey, async (call, send) => {
          if (call >= crash) {
            if (written && call === crash) await send();
            throw new Error("the process crashed");
          }
          return send();
        });
        await expect(submit(crashing, DIAMOND, flowId, completions)).rejects.toThrow("the process crashed");
        await workBatch(
          { valkey, router: ROUTER, completions, identity: IDENTITY },
          { partition: ROUTER.flowPartition(flowId), lane: LANE },
          () => Promise.resolve({ outcome: "success", result: "" }),
          { limit: 10 },
        );
        // Drop what the worker published: a dispatcher has processed it against the incomplete graph.
        completions.sent.splice(0);
        const submission = await submit(valkey, DIAMOND, flowId, completions);
        await expectWholeGraph(submission, DIAMOND);
        await runToEnd(submission, DIAMOND, completions);
        await expectAllSucceeded(submission, DIAMOND);
      }
    }
  });

  test("a worker that claims everything eligible after each call does not run a child early", async () => {
    const ran: string[] = [];
    const flowId = newFlowId();
    const completions = new RecordingPublisher();
    const place = { partition: ROUTER.flowPartition(flowId), lane: LANE };
    const eager = new InterceptedPipelines(valkey, async (_, send) => {
      const results = await send();
      await workBatch(
        { valkey, router: ROUTER, completions, identity: IDENTITY },
        place,
        async ({ payload }) => {
          const { core, partition } = ROUTER.flowKeys(flowId);
          ran.push(
            `${payload}, ${fieldText(await run(valkey, partition, "hget", core, "edge_count"))} edges`,
          );
          return { outcome: "success", result: "" };
        },
        { limit: 10 },
      );
      return results;
    });
    const submission = await submit(eager, DIAMOND, flowId, completions);
    // The root is created after the three edges between its descendants are staged.
    expect(ran).toEqual(["input of a, 3 edges"]);
    // It ended before its own edges were staged, so the submission publishes its completion.
    expect(submission.completionsSent).toBe(1);
    await runToEnd(submission, DIAMOND, completions);
    await expectAllSucceeded(submission, DIAMOND);
  });

  test("the completion of a root that failed before its edges were staged is published as failed", async () => {
    const flowId = newFlowId();
    const worker = new RecordingPublisher();
    const eager = new InterceptedPipelines(valkey, async (_, send) => {
      const results = await send();
      await workBatch(
        { valkey, router: ROUTER, completions: worker, identity: IDENTITY },
        { partition: ROUTER.flowPartition(flowId), lane: LANE },
        () => Promise.resolve({ outcome: "failed", reason: "it broke" }),
        { limit: 10 },
      );
      return results;
    });
    const completions = new RecordingPublisher();
    const submission = await submit(eager, DIAMOND, flowId, completions);
    const root = idOf(submission, "a");
    expect(completions.sent).toEqual([{ executionId: root, flowId, outcome: "failed", depth: 0, root }]);
  });

  test("two concurrent submitters create one flow", async () => {
    const wide = workflowOf(
      ...Array.from({ length: 40 }, (_, n) => [`r${n % 5}>m${n}`, `m${n}>l${n % 7}`, `r${n % 3}>l${n % 7}`])
        .flat()
        .filter((edge, position, all) => all.indexOf(edge) === position),
    );
    const other = connect();
    try {
      for (let round = 0; round < 5; round += 1) {
        const flowId = newFlowId();
        const [first, second] = await Promise.all([
          submit(valkey, wide, flowId),
          submit(other, wide, flowId),
        ]);
        expect(second.executions).toEqual(first.executions);
        await expectWholeGraph(first, wide);
      }
    } finally {
      other.close();
    }
  });

  test("submission succeeds while another client changes the graph revision three times", async () => {
    const flowId = newFlowId();
    let changed = 0;
    const disturbed = new InterceptedPipelines(valkey, async (call, send) => {
      const results = await send();
      const { core, partition } = ROUTER.flowKeys(flowId);
      if (call % 2 === 0 && changed < 3) {
        const [bump] = await valkey.pipelined([command(partition, "exists", core)]);
        if (bump?.ok && bump.value === 1) {
          changed += 1;
          await run(valkey, partition, "hincrby", core, "graph_revision", 1);
        }
      }
      return results;
    });
    const submission = await submit(disturbed, DIAMOND, flowId);
    expect(changed).toBe(3);
    expect(await run(valkey, submission.partition, "hget", ROUTER.flowKeys(flowId).core, "edge_count")).toBe(
      "5",
    );
  });

  test("a graph of several chunks, with a wide fan-in and a payload above the size of a chunk, is complete", async () => {
    const middle = Array.from({ length: 1_200 }, (_, number) => `m${number}`);
    const wide: Workflow = {
      name: "wide",
      tasks: [
        task("first"),
        ...middle.map((id) => task(id)),
        task("last", { payload: "x".repeat(5_000_000) }),
      ],
      edges: middle.flatMap((id) => [
        { from: "first", to: id, dataPassing: false },
        { from: id, to: "last", dataPassing: false },
      ]),
    };
    const flowId = newFlowId();
    await expectWholeGraph(await submit(valkey, wide, flowId), wide);
    const { partition, id } = ROUTER.execKeys(idOf(await submit(valkey, wide, flowId), "last"));
    const { core, payload, depsMeta } = ROUTER.execKeys(id);
    expect(await run(valkey, partition, "strlen", payload)).toBe(5_000_000);
    expect(await run(valkey, partition, "hget", core, "public_state")).toBe("waiting_children");
    expect(await run(valkey, partition, "hget", depsMeta, "unsatisfied_required_count")).toBe("1200");
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
      await expectWholeGraph(await submit(valkey, DIAMOND, flowId), DIAMOND);
    }
  });

  /** A worker that runs everything eligible after each pipeline, so that roots end before their edges are staged. */
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
    ["a worker that ends the root early", workAfterEach],
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
        await expectWholeGraph(await submit(valkey, DIAMOND, id), DIAMOND);
      }
    },
  );

  test("a publisher that returns too few results fails the submission; the next one publishes again", async () => {
    const flowId = newFlowId();
    const early = new InterceptedPipelines(valkey, workAfterEach(flowId));
    const short = new RecordingPublisher();
    short.send = () => Promise.resolve([]);
    await expect(submit(early, DIAMOND, flowId, short)).rejects.toThrow(
      "the publisher returned no result for",
    );
    const completions = new RecordingPublisher();
    const submission = await submit(valkey, DIAMOND, flowId, completions);
    expect(completions.executionIds).toEqual([idOf(submission, "a")]);
  });
});

test("a connection lost between any two commands of a transaction leaves no child eligible", async () => {
  const [standalone] = DEPLOYMENTS;
  if (standalone?.name !== "standalone") throw new Error("the first deployment is the standalone one");
  const valkey = standalone.connect();
  try {
    // The diamond's children take 17 commands: 4 transactions with 5 edges.
    for (let sent = 1; sent <= 17; sent += 1) {
      const flowId = newFlowId();
      const broken = new InterceptedPipelines(valkey, async (_, send, commands) => {
        if (!commands.some(({ name }) => name === "multi")) return send();
        expect(commands).toHaveLength(17);
        const connection = standalone.connect();
        for (const { name, args } of commands.slice(0, sent)) await connection.call(name, ...args);
        connection.close();
        throw new Error("the connection was lost");
      });
      await expect(submit(broken, DIAMOND, flowId)).rejects.toThrow("the connection was lost");
      const partition = ROUTER.flowPartition(flowId);
      const { eligible } = ROUTER.indexKeys(partition).lane(LANE);
      expect(await run(valkey, partition, "zrange", eligible, 0, -1)).toEqual([]);
      expect((await submit(valkey, DIAMOND, flowId)).taskCount).toBe(5);
      expect(await run(valkey, partition, "zcard", eligible)).toBe(1);
    }
  } finally {
    valkey.close();
  }
});

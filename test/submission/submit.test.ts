import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { planSubmission } from "#sdk/submission/plan.ts";
import { type Submission, type SubmitProgress, submitFlow } from "#sdk/submission/submit.ts";
import type { Workflow } from "#sdk/submission/workflow.ts";
import type { RunOutcome } from "#sdk/worker/finish.ts";
import { type ExecutionHandler, workBatch } from "#sdk/worker/worker.ts";
import { command, type Pipelines, type ValkeyCommand, type ValkeyResult } from "#shared/contract/command.ts";
import { type FlowId, parseAttemptIndex, unwrap } from "#shared/contract/ids.ts";
import { fieldText, isTerminalOutcome } from "#shared/contract/record.ts";
import { resolveDependency } from "#shared/contract/resolve.ts";
import { addExecutionToFlow, createExecution, createFlow } from "#shared/contract/submission.ts";
import { doneOrThrow, readEach, valueOrThrow } from "#shared/valkey/batches.ts";
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
/** `c` and `e` have two upstreams each. */
const TWO_ROOTS = workflowOf("a>c", "b>c", "b=>d", "c>e", "d>e");
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
    const counts = await readEach(
      valkey,
      workflow.tasks.flatMap(({ id }) => {
        const execution = idOf(submission, id);
        return [flow.incoming(execution), flow.outgoing(execution), ROUTER.execKeys(execution).depsAllEdges];
      }),
      (key) => command(flow.partition, "scard", key),
    );
    const incoming = Map.groupBy(workflow.edges, ({ to }) => to);
    const outgoing = Map.groupBy(workflow.edges, ({ from }) => from);
    expect(counts).toEqual(
      workflow.tasks.flatMap(({ id }) => {
        const upstreams = incoming.get(id)?.length ?? 0;
        return [upstreams, outgoing.get(id)?.length ?? 0, upstreams];
      }),
    );
    const flowIds = await readEach(valkey, workflow.tasks, ({ id }) =>
      command(flow.partition, "hget", ROUTER.execKeys(idOf(submission, id)).core, "flow_id"),
    );
    expect(new Set(flowIds)).toEqual(new Set([submission.flowId]));

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
        succeedIfUpstreamsEnded(submission.flowId, workflow),
        { limit: 10 },
      );
      if (worked.length === 0 && completions.sent.length === 0) return;
    }
  }

  /** A task that succeeds. It fails the test if one of its upstreams has not ended. */
  function succeedIfUpstreamsEnded(flowId: FlowId, workflow: Workflow): ExecutionHandler {
    const { tasks } = planSubmission(ROUTER, workflow, flowId, "default");
    return async ({ id }) => {
      const planned = tasks.find(({ keys }) => keys.id === id);
      for (const { upstream } of planned?.incoming ?? expect.fail(`${id} is not a task`)) {
        expect(await recordOf(valkey, upstream, "terminal_outcome")).toEqual({ terminal_outcome: "success" });
      }
      return { outcome: "success", result: "" };
    };
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

  test("a worker that claims everything eligible after each call runs nothing before all edges are staged", async () => {
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
    expect(ran).toEqual(["input of a, 5 edges"]);
    expect(submission.completionsSent).toBe(0);
    await runToEnd(submission, DIAMOND, completions);
    await expectAllSucceeded(submission, DIAMOND);
  });

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

  test("a released root that waits for a retry is not promoted by the next submission", async () => {
    const retryPolicy = { maxRetries: 1, backoff: { type: "fixed", delayMs: 3_600_000 } } as const;
    const workflow = { ...DIAMOND, tasks: DIAMOND.tasks.map(({ id }) => task(id, { retryPolicy })) };
    const flowId = newFlowId();
    const { partition } = await submit(valkey, workflow, flowId);
    await workBatch(
      { valkey, router: ROUTER, completions: new RecordingPublisher(), identity: IDENTITY },
      { partition, lane: LANE },
      () => Promise.resolve({ outcome: "failed", reason: "it broke" }),
      { limit: 10 },
    );
    const before = await snapshot(valkey, partition);
    const submission = await submit(valkey, workflow, flowId);
    expect(await snapshot(valkey, partition)).toEqual(before);
    expect(await recordOf(valkey, idOf(submission, "a"), "public_state")).toEqual({
      public_state: "delayed",
    });
  });

  test("a flow that is cancelled during the submission is an error that another submission does not correct", async () => {
    const flowId = newFlowId();
    const { core, partition } = ROUTER.flowKeys(flowId);
    const cancelled = new InterceptedPipelines(valkey, async (_, send, commands) => {
      if (commands.some(({ args }) => args[0] === "ff_stage_dependency_edge")) {
        await run(valkey, partition, "hset", core, "public_flow_state", "cancelled");
      }
      return send();
    });
    for (const pipelines of [cancelled, valkey]) {
      const attempt = submit(pipelines, DIAMOND, flowId);
      await expect(attempt).rejects.toThrow(/flow_already_terminal.*with another flow id/);
      await expect(attempt).rejects.toMatchObject({ retryable: false });
    }
  });

  test("the roots of a flow that was cancelled before their release stay held", async () => {
    const flowId = newFlowId();
    const { core, partition } = ROUTER.flowKeys(flowId);
    const cut = new InterceptedPipelines(valkey, (_, send, commands) =>
      commands.some(({ args }) => args[0] === "ff_promote_delayed" && args[6] !== 0)
        ? Promise.reject(new Error("cut off"))
        : send(),
    );
    await expect(submit(cut, DIAMOND, flowId)).rejects.toThrow(/cut off.*safe to submit again/);
    await run(valkey, partition, "hset", core, "public_flow_state", "cancelled");
    const before = await snapshot(valkey, partition);
    const attempt = submit(valkey, DIAMOND, flowId);
    await expect(attempt).rejects.toThrow(/is cancelled: 1 of its roots were not released/);
    await expect(attempt).rejects.toMatchObject({ retryable: false });
    expect(await snapshot(valkey, partition)).toEqual(before);
  });

  test("the library of Sluice 0.1, which cannot release roots, is refused, and nothing is written", async () => {
    const flowId = newFlowId();
    // That library refuses to promote an execution that does not exist.
    const outdated = new InterceptedPipelines(valkey, async (_, send, commands) => {
      const results = await send();
      return results.map((result, position) =>
        commands[position]?.args[0] === "ff_promote_delayed"
          ? { ok: true, value: [0, "execution_not_found"] }
          : result,
      );
    });
    await expect(submit(outdated, DIAMOND, flowId)).rejects.toThrow(
      /that of Sluice 0.1.*nothing was written/,
    );
    expect(await snapshot(valkey, ROUTER.flowPartition(flowId))).toEqual({});
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
        await expectWholeGraph(await submit(valkey, DIAMOND, id), DIAMOND);
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
        succeedIfUpstreamsEnded(flowId, TWO_ROOTS),
        { limit: 10 },
      );
      if (worked.length > 0) {
        expect(await run(valkey, partition, "hget", core, "edge_count")).toBe(String(TWO_ROOTS.edges.length));
      }
      const submission = await submit(valkey, TWO_ROOTS, flowId, completions);
      await expectWholeGraph(submission, TWO_ROOTS);
      await runToEnd(submission, TWO_ROOTS, completions);
      await expectAllSucceeded(submission, TWO_ROOTS);
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

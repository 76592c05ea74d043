import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { planSubmission } from "#sdk/submission/plan.ts";
import type { SubmitProgress } from "#sdk/submission/submit.ts";
import type { Workflow } from "#sdk/submission/workflow.ts";
import { workBatch } from "#sdk/worker/worker.ts";
import { fieldText } from "#shared/contract/record.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import {
  InterceptedPipelines,
  LANE,
  RecordingPublisher,
  recordOf,
  task,
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
} from "#test/submission/flow-checks.ts";
import { newFlowId, ROUTER } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS, run, snapshot } from "#test/support/valkey.ts";

/** The documented limit. */
const MAX_PAYLOAD_BYTES = 262_144;

describe.each(DEPLOYMENTS)("submitFlow ($name)", ({ connect }) => {
  let valkey: Valkey;
  beforeAll(() => {
    valkey = connect();
  });
  afterAll(() => valkey.close());

  test("roots are eligible, children are blocked, and records hold lane, priority, policy, payload and task id", async () => {
    const workflow: Workflow = {
      ...DIAMOND,
      tasks: DIAMOND.tasks.map(({ id }) =>
        task(
          id,
          id === "a" ? { priority: 7, retry: { attempts: 3, backoff: { type: "fixed", delayMs: 9 } } } : {},
        ),
      ),
    };
    const progress: SubmitProgress[] = [];
    const completions = new RecordingPublisher();
    const submission = await submit(valkey, workflow, newFlowId(), completions, (step) =>
      progress.push(step),
    );

    await expectWholeGraph(valkey, submission, workflow);
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
    expect(await run(valkey, root.partition, "hget", root.tags, "sluice.task")).toBe("a");
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
    await runToEnd(valkey, submission, DIAMOND, completions);
    await expectAllSucceeded(valkey, submission, DIAMOND);
  });

  test("a released root that waits for a retry is not promoted by the next submission", async () => {
    const retry = { attempts: 2, backoff: { type: "fixed", delayMs: 3_600_000 } } as const;
    const workflow = { ...DIAMOND, tasks: DIAMOND.tasks.map(({ id }) => task(id, { retry })) };
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

  test("a graph of several chunks, with a wide fan-in and payloads that fill more than one chunk, is complete", async () => {
    const middle = Array.from({ length: 1_200 }, (_, number) => `m${number}`);
    const payloads = "x".repeat(MAX_PAYLOAD_BYTES);
    const wide: Workflow = {
      name: "wide",
      tasks: [
        task("first"),
        ...middle.map((id, number) => task(id, number < 20 ? { payload: payloads } : {})),
        task("last", { payload: payloads }),
      ],
      edges: middle.flatMap((id) => [
        { from: "first", to: id, dataPassing: false },
        { from: id, to: "last", dataPassing: false },
      ]),
    };
    const flowId = newFlowId();
    await expectWholeGraph(valkey, await submit(valkey, wide, flowId), wide);
    const { partition, id } = ROUTER.execKeys(idOf(await submit(valkey, wide, flowId), "last"));
    const { core, payload, depsMeta } = ROUTER.execKeys(id);
    expect(await run(valkey, partition, "strlen", payload)).toBe(MAX_PAYLOAD_BYTES);
    expect(await run(valkey, partition, "hget", core, "public_state")).toBe("waiting_children");
    expect(await run(valkey, partition, "hget", depsMeta, "unsatisfied_required_count")).toBe("1200");
  });
});

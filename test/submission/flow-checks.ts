/** What tests of submissions check and run: complete graphs, and flows up to their end. */

import { expect } from "vitest";
import { planSubmission } from "#sdk/submission/plan.ts";
import { type Submission, type SubmitProgress, submitFlow } from "#sdk/submission/submit.ts";
import type { Workflow } from "#sdk/submission/workflow.ts";
import { type ExecutionHandler, workBatch } from "#sdk/worker/worker.ts";
import { command, type Pipelines } from "#shared/contract/command.ts";
import { type ExecutionId, type FlowId, parseAttemptIndex, unwrap } from "#shared/contract/ids.ts";
import { fieldText, isTerminalOutcome } from "#shared/contract/record.ts";
import { resolveDependency } from "#shared/contract/resolve.ts";
import { readEach } from "#shared/valkey/batches.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { LANE, RecordingPublisher, recordOf, workflowOf } from "#test/submission/fixture.ts";
import { newFlowId, ROUTER } from "#test/support/flow-fixture.ts";
import { run } from "#test/support/valkey.ts";

export const DIAMOND = workflowOf("a>b", "a=>c", "b>d", "c>d", "d>e");
export const IDENTITY = { workerId: "worker", instanceId: "worker-1" };

export function submit(
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

export function idOf(submission: Submission, id: string): ExecutionId {
  const execution = submission.executions.get(id);
  if (execution === undefined) throw new Error(`no execution for ${id}`);
  return execution;
}

/** Checks the invariants of a submitted flow. They hold no matter what has run meanwhile. */
export async function expectWholeGraph(
  valkey: Valkey,
  submission: Submission,
  workflow: Workflow,
): Promise<void> {
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
export async function runToEnd(
  valkey: Valkey,
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
      succeedIfUpstreamsEnded(valkey, submission.flowId, workflow),
      { limit: 10 },
    );
    if (worked.length === 0 && completions.sent.length === 0) return;
  }
}

/** A task that succeeds. It fails the test if one of its upstreams has not ended. */
export function succeedIfUpstreamsEnded(
  valkey: Valkey,
  flowId: FlowId,
  workflow: Workflow,
): ExecutionHandler {
  const { tasks } = planSubmission(ROUTER, workflow, flowId, "default");
  return async ({ id }) => {
    const planned = tasks.find(({ keys }) => keys.id === id);
    for (const { upstream } of planned?.incoming ?? expect.fail(`${id} is not a task`)) {
      expect(await recordOf(valkey, upstream, "terminal_outcome")).toEqual({ terminal_outcome: "success" });
    }
    return { outcome: "success", result: "" };
  };
}

export async function expectAllSucceeded(
  valkey: Valkey,
  submission: Submission,
  workflow: Workflow,
): Promise<void> {
  for (const { id } of workflow.tasks) {
    expect(await recordOf(valkey, idOf(submission, id), "terminal_outcome", "total_attempt_count")).toEqual({
      terminal_outcome: "success",
      total_attempt_count: "1",
    });
  }
}

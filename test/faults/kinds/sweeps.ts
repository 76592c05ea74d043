/**
 * The reconcile process is killed at every step in which it marks leases, gives up executions that were reclaimed too often,
 * expires executions, promotes delayed ones, or sends completions. The next run does the rest.
 */

import type { FunctionProcess } from "#local/function-process.ts";
import { type ClaimedExecution, claimBatch } from "#sdk/worker/claim.ts";
import { command, type ValkeyCommand } from "#shared/contract/command.ts";
import { failExecution } from "#shared/contract/ownership.ts";
import { messageOf } from "#shared/errors.ts";
import { LEASE_KEY } from "#shared/reconcile/lease.ts";
import { valueOrThrow } from "#shared/valkey/batches.ts";
import type { ModelGraph } from "#test/dispatch/model.ts";
import { Breakpoint } from "#test/faults/breakpoint.ts";
import { type FaultKind, runToEnd } from "#test/faults/case.ts";
import { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { RECONCILED } from "#test/faults/reconcile.ts";
import { impatientReconciler } from "#test/faults/reconcilers.ts";
import { Standalone } from "#test/faults/servers.ts";
import { SWEEP_POINTS, sweepPointName } from "#test/faults/steps.ts";
import { TestBed } from "#test/faults/test-bed.ts";

/** What happens to a root after its claim. Each root has a child of its own. */
type Fate = "times out" | "is retried" | "is lost" | "is lost too often";

/** Two of each: a step with several commands can be stopped between them. */
const FATES: readonly Fate[] = ["times out", "is retried", "is lost", "is lost too often"];
const ROOTS: readonly Fate[] = [...FATES, ...FATES];
const GRAPH: ModelGraph = {
  outcomes: [
    ...ROOTS.map((fate) => (fate === "times out" || fate === "is lost too often" ? "failed" : "success")),
    ...ROOTS.map(() => "success" as const),
  ],
  edges: ROOTS.map((_, root) => [root, ROOTS.length + root]),
};
const IDENTITY = { workerId: "lost", instanceId: "lost-1" };
const RETRY = JSON.stringify({ max_retries: 1, backoff: { type: "fixed", delay_ms: 600_000 } });
const RECLAIM_LIMIT = 5;
/** The first run after the killed one repeats its work, the second one sends completions that were lost. */
const RUNS_AFTER = 2;

export const sweeps: FaultKind = {
  name: "sweeps",
  cases: { full: 5 * SWEEP_POINTS.length, quick: SWEEP_POINTS.length },
  startTestBed: async () => TestBed.start(await Standalone.start(), RECONCILED),
  run: async (context) => {
    const { bed, random } = context;
    const point = SWEEP_POINTS[context.number % SWEEP_POINTS.length];
    if (point === undefined) throw new RangeError(`no point for the case ${context.number}`);
    const flow = await FlowUnderTest.build(bed, random, GRAPH);
    const source = { partition: flow.flowKeys.partition, lane: flow.lane };
    const { valkey, router, completions } = bed;
    const deps = { valkey, router, completions, identity: IDENTITY };
    const claims = await claimBatch(deps, source, { limit: ROOTS.length });
    if (claims.length !== ROOTS.length) throw new Error(`${claims.length} roots were claimed`);
    await send(
      bed,
      claims.flatMap((claimed) => interrupt(flow, claimed)),
    );
    const fn = impatientReconciler(bed);
    bed.breakpoint = new Breakpoint([point], async () => {
      await fn.kill("SIGKILL");
      return "drop";
    });
    await reconcile(bed, fn);
    await bed.breakpoint.settled();
    if (bed.breakpoint.hitAt === undefined)
      throw new Error(`the reconciler did not reach ${sweepPointName(point)}`);
    bed.breakpoint = undefined;
    context.onReached(sweepPointName(point));
    for (let run = 0; run < RUNS_AFTER; run += 1) {
      // Time passes: the lease of the run that was killed runs out, and what it did not send may be sent again.
      await bed.valkey.call("del", LEASE_KEY);
      await send(
        bed,
        flow.tasks.map((keys) => command(keys.partition, "del", keys.resent(flow.flowKeys.id))),
      );
      await reconcile(bed, fn);
      await flow.work(GRAPH.outcomes.length, { mayReclaim: true });
      await runToEnd(context, flow);
    }
    const again = ROOTS.flatMap((fate, root) => (fate === "is retried" || fate === "is lost" ? [root] : []));
    const timedOut = ROOTS.flatMap((fate, root) => (fate === "times out" ? [root] : []));
    return flow.compareWithModel({
      moreRuns: new Map(again.map((root) => [root, 1])),
      states: new Map(timedOut.map((root) => [root, "expired"])),
      maxCascades: Number.POSITIVE_INFINITY,
      mayLeaveEdges: true,
    });
  },
};

/** Lets time pass for a claimed root: what its fate needs becomes due. */
function interrupt(flow: FlowUnderTest, { target, lease }: ClaimedExecution): ValkeyCommand[] {
  const { keys, index, lane } = target;
  const { partition, id, core } = keys;
  const fate = ROOTS[flow.tasks.findIndex((task) => task.id === id)];
  const end = [
    command(partition, "hset", core, "lease_expires_at", 1),
    command(partition, "zadd", index.leaseExpiry, 1, id),
  ];
  switch (fate) {
    case "times out":
      return [command(partition, "zadd", index.attemptTimeout, 1, id)];
    case "is retried":
      return [
        failExecution(target, IDENTITY, lease, { reason: "once", category: "test", retryPolicyJson: RETRY }),
        command(partition, "hset", core, "delay_until", 1),
        command(partition, "zadd", index.lane(lane).delayed, 1, id),
      ];
    case "is lost":
      return end;
    default:
      return [command(partition, "hset", core, "lease_reclaim_count", RECLAIM_LIMIT), ...end];
  }
}

async function send({ valkey }: TestBed, commands: readonly ValkeyCommand[]): Promise<void> {
  for (const result of await valkey.pipelined(commands)) valueOrThrow(result);
}

async function reconcile(bed: TestBed, fn: FunctionProcess): Promise<void> {
  try {
    bed.note(`the reconciler: ${JSON.stringify(await fn.invoke({}))}`);
  } catch (error) {
    bed.note(`the reconciler failed: ${messageOf(error)}`);
  }
}

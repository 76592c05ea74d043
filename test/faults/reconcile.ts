import type { FunctionProcess } from "#local/function-process.ts";
import { messageOf } from "#shared/errors.ts";
import { type CaseContext, runToEnd } from "#test/faults/case.ts";
import type { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import type { Lapses } from "#test/faults/leases.ts";
import { impatientReconciler } from "#test/faults/reconcilers.ts";
import { until } from "#test/faults/servers.ts";
import type { TestBed } from "#test/faults/test-bed.ts";

const GRACE_SECONDS = 1;

/** Few partitions, because a sweep visits all of them. */
export const RECONCILED = { partitions: 256 };

export function reconciler(bed: TestBed): FunctionProcess {
  return bed.startFunction("reconcile", { RECONCILE_GRACE_SECONDS: String(GRACE_SECONDS), LANES: "default" });
}

const MAX_RECOVERIES = 10;

/** Reconciles until every execution has ended: leases and grants run out, and lost completions are sent. */
export async function recover(
  context: Pick<CaseContext, "bed" | "random">,
  flow: FlowUnderTest,
  lapses: Lapses,
): Promise<void> {
  const { bed } = context;
  const fn = impatientReconciler(bed);
  for (let sweep = 0; sweep < MAX_RECOVERIES && !(await hasEnded(flow)); sweep += 1) {
    await lapses.lapse(bed, flow);
    bed.note(`the reconciler: ${JSON.stringify(await fn.invoke({}))}`);
    await runToEnd(context, flow);
  }
}

async function hasEnded(flow: FlowUnderTest): Promise<boolean> {
  const ended = await Promise.all(flow.tasks.map(({ core }) => flow.read("hget", core, "lifecycle_phase")));
  return ended.every((phase) => phase === "terminal");
}

/** Waits until every ended execution of a flow is older than the grace period by the server clock, and reconciles once. */
export async function sweepOnce(bed: TestBed, flow: FlowUnderTest, fn: FunctionProcess): Promise<void> {
  const youngest = Math.max(...(await Promise.all(flow.tasks.map(({ core }) => endOf(flow, core)))));
  await until(
    "the end of the grace period",
    async () => (await parseTime(bed)) > youngest + GRACE_SECONDS * 1_000,
  );
  try {
    bed.note(`the reconciler: ${JSON.stringify(await fn.invoke({}))}`);
  } catch (error) {
    throw new Error(`the reconciler failed: ${messageOf(error)}`, { cause: error });
  }
}

async function endOf(flow: FlowUnderTest, core: string): Promise<number> {
  return Number(await flow.read("hget", core, "completed_at"));
}

async function parseTime(bed: TestBed): Promise<number> {
  const time = await bed.valkey.call("time");
  const [seconds, microseconds] = Array.isArray(time) ? time.map(Number) : [];
  return (seconds ?? Number.NaN) * 1_000 + Math.floor((microseconds ?? 0) / 1_000);
}

/**
 * The reconciler: finds what dispatch missed and hands it back to the queue. It resolves no edge itself, so that
 * there is one path which changes children.
 *
 * A sweep goes through every index of executions that wait for dependencies, to its end, whatever stands in front.
 * It may take several invocations; each goes on where the one before stopped. Dying between any two steps does no
 * harm: what was not known to be done is looked at again, a completion sent twice changes nothing, and a promotion
 * made twice is refused.
 */

import { type Blocked, readBlocked } from "#shared/reconcile/blocked.ts";
import { type Taken, takeLease } from "#shared/reconcile/lease.ts";
import { beginning, formatPlace, type Place, Progress, parsePlace } from "#shared/reconcile/place.ts";
import { promote } from "#shared/reconcile/promote.ts";
import { repair, type Sent } from "#shared/reconcile/repair.ts";
import {
  Failures,
  type ReconcilerPorts,
  Run,
  type StopReason,
  SweepStopped,
  type Tally,
} from "#shared/reconcile/run.ts";
import { candidatesOf, type Page, PagesAhead, readPages, readRecordedLanes } from "#shared/reconcile/scan.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { chunked } from "#shared/valkey/batches.ts";

/** Indexes that are open at once: they are read together, and a page of each is in memory. */
const OPEN_INDEXES = 1_024;
/** Executions that are looked at together. */
const EXECUTIONS_AT_ONCE = 250;

export interface SweepReport extends Readonly<Tally> {
  /**
   * `complete`: the sweep is over. `incomplete`: it is over, and some indexes could not be read or dealt with; the
   * next sweep comes to them again. `busy`: another run is at it, and nothing was done. The others: the run stopped,
   * and the next one goes on from its place.
   */
  readonly state: "complete" | "incomplete" | "busy" | StopReason;
  /** Indexes that could not be read, or not be dealt with. */
  readonly unread: number;
}

/**
 * Sweeps until the end or the deadline. Rejects where the lease cannot be taken, renewed or given back, or the lanes
 * not be read: then Valkey is not there, and an expiring lease is all that is left behind.
 */
export async function sweep(ports: ReconcilerPorts): Promise<SweepReport> {
  const { valkey, partitions, telemetry } = ports;
  // All that is certain to be needed in one round trip, and with it what probably is: in a quiet deployment the only one.
  const likely = { lanes: union(ports.lanes, ports.likelyLanes), partitions };
  const [taken, recorded, pages] = await Promise.all([
    takeLease(valkey),
    readRecordedLanes(valkey),
    readPages(ports, new Progress(likely, beginning(0)).next(OPEN_INDEXES)),
  ]);
  if (taken === undefined) {
    telemetry.info("another run of the reconciler is under way", {});
    return { state: "busy", unread: 0, scanned: 0, repaired: 0, promoted: 0, refused: 0, unreadable: 0 };
  }
  const place = placeOf(ports, taken);
  const scope = { lanes: union(ports.lanes, recorded.lanes), partitions };
  const run = new Run(ports, new Progress(scope, place), taken.lease, taken.serverNowMs);
  for (const reason of recorded.errors) run.unreadable("a recorded lane is left out", { reason });
  const stopped = await untilStopped(run, new PagesAhead(taken.place === "" ? pages : []));
  return conclude(run, taken, stopped);
}

function union<T>(...lists: readonly (readonly T[])[]): T[] {
  return [...new Set(lists.flat())];
}

function placeOf({ partitions, telemetry }: ReconcilerPorts, taken: Taken): Place {
  if (taken.place === "") return beginning(taken.serverNowMs);
  const place = parsePlace(taken.place, partitions);
  if (place !== undefined) return place;
  telemetry.warn("the place of the last sweep makes no sense: a new one begins", {
    place: taken.place.slice(0, 200),
  });
  return beginning(taken.serverNowMs);
}

async function untilStopped(run: Run, ahead: PagesAhead): Promise<StopReason | undefined> {
  try {
    await work(run, ahead);
    return undefined;
  } catch (error) {
    if (error instanceof SweepStopped) return error.reason;
    throw error;
  }
}

async function work(run: Run, ahead: PagesAhead): Promise<void> {
  const { progress, ports } = run;
  const sent: Sent = new Set();
  let atHand = ahead;
  for (;;) {
    const units = progress.next(OPEN_INDEXES);
    if (units.length === 0) return;
    await run.step();
    const pages = await atHand.read(ports, units);
    atHand = NONE_AHEAD;
    const read = pages.filter((page) => page.ok);
    await failUnread(run, pages);
    for (const batch of chunked(read, ({ members }) => members.length, EXECUTIONS_AT_ONCE)) {
      await run.step();
      const failures = await reconcile(run, sent, batch);
      for (const { unit, cursor } of batch) {
        if (failures.has(unit)) progress.fail(unit);
        else progress.advance(unit, cursor);
      }
    }
  }
}

const NONE_AHEAD = new PagesAhead([]);

/** Where not one could be read, Valkey itself may be gone: renewing the lease finds out, and rejects. */
async function failUnread(run: Run, pages: readonly Page[]): Promise<void> {
  const unread = pages.filter((page) => !page.ok);
  for (const { unit, error } of unread) {
    run.failed(unit, error);
    run.progress.fail(unit);
  }
  if (unread.length === pages.length) await run.keep();
}

async function reconcile(
  run: Run,
  sent: Sent,
  pages: readonly Extract<Page, { ok: true }>[],
): Promise<Failures> {
  const failures = new Failures(run);
  const blocked = await readBlocked(
    run,
    pages.flatMap((page) => candidatesOf(run, page)),
    failures,
  );
  const isFree = ({ unresolved }: Blocked): boolean => unresolved === 0;
  await promote(run, blocked.filter(isFree), failures);
  await repair(
    run,
    sent,
    blocked.filter((child) => !isFree(child)),
    failures,
  );
  return failures;
}

async function conclude(run: Run, { lease }: Taken, stopped: StopReason | undefined): Promise<SweepReport> {
  const { progress, ports, tally } = run;
  const unread = progress.place.failed.length;
  const isOver = stopped === undefined;
  const isHeld = stopped !== "lease_lost" && (await lease.release(isOver ? "" : formatPlace(progress.place)));
  const ended = unread === 0 ? "complete" : "incomplete";
  const state = isHeld ? (stopped ?? ended) : "lease_lost";
  run.report(unread);
  if (state === "complete") {
    ports.telemetry.measure(METRICS.sweepDuration, Math.max(0, run.serverNowMs - progress.startedAtMs));
  }
  const report: SweepReport = { state, unread, ...tally };
  ports.telemetry.info("a run of the reconciler ended", { ...report });
  return report;
}

/** Completions that dispatch missed: they are handed back to the queue, and dispatch deals with them. */

import type { Completion } from "#shared/contract/message.ts";
import type { Blocked } from "#shared/reconcile/blocked.ts";
import type { Failures, Run } from "#shared/reconcile/run.ts";
import { nameOf, readUpstreams, type Upstream, type Waiting } from "#shared/reconcile/upstreams.ts";
import { chunked } from "#shared/valkey/batches.ts";

/** Unresolved edges that are looked at together; an execution with more of them is looked at alone, and whole. */
const EDGES_AT_ONCE = 10_000;
/** Completions that are sent before there is another look at the clock. */
const SENDS_AT_ONCE = 500;
/** Upstreams that a run remembers as sent. Beyond, one may be sent twice in a sweep, which changes nothing. */
const REMEMBERED = 100_000;

/** The upstreams of which this run has sent the completion. */
export type Sent = Set<string>;

/**
 * Sends one completion for every upstream that ended longer ago than the grace and for which any of the executions
 * still waits. Throws a SweepStopped.
 */
export async function repair(
  run: Run,
  sent: Sent,
  children: readonly Blocked[],
  failures: Failures,
): Promise<void> {
  for (const chunk of chunked(children, ({ unresolved }) => unresolved, EDGES_AT_ONCE)) {
    await run.step();
    const waiting = await readUpstreams(run, chunk, failures);
    noteAges(run, chunk, waiting);
    const due = waiting.upstreams.flatMap((upstream) => {
      const completion = completionOf(run, upstream);
      return completion === undefined || sent.has(nameOf(upstream)) ? [] : [{ upstream, completion }];
    });
    for (const slice of chunked(due, () => 1, SENDS_AT_ONCE)) {
      await run.step();
      const results = await run.ports.publisher.send(
        slice.map(({ completion }) => completion),
        run.ports.deadlineMs,
      );
      for (const [position, { upstream }] of slice.entries()) {
        const result = results[position];
        if (result?.ok) remember(run, sent, upstream);
        else for (const { unit } of upstream.waiting) failures.add(unit, result?.error);
      }
    }
  }
}

function remember(run: Run, sent: Sent, upstream: Upstream): void {
  run.tally.repaired += 1;
  if (sent.size >= REMEMBERED) sent.clear();
  sent.add(nameOf(upstream));
}

function completionOf(run: Run, { id, flowId, state }: Upstream): Completion | undefined {
  if (state.kind !== "ended" || !run.isPastGrace(state.endedAtMs)) return undefined;
  return { executionId: id, flowId, outcome: state.outcome, depth: 0, root: id };
}

/** Of the executions whose upstreams have all ended: since when they could have been released or skipped. */
function noteAges(run: Run, children: readonly Blocked[], { upstreams, puzzling }: Waiting): void {
  const since = new Map<Blocked, number>();
  const open = new Set(puzzling);
  for (const { state, waiting } of upstreams) {
    for (const child of waiting) {
      if (state.kind !== "ended" || state.endedAtMs === undefined) open.add(child);
      else since.set(child, Math.max(since.get(child) ?? 0, state.endedAtMs));
    }
  }
  for (const child of children) {
    const sinceMs = since.get(child);
    if (sinceMs !== undefined && !open.has(child)) run.noteAge(sinceMs);
  }
}

/**
 * Simulates dispatch, its queue and the reconciler through an outage of dispatch, second by second. It runs the
 * reconciler's own decision code, `ResendPlan`. Deterministic: a seed decides the arrivals and the lost completions.
 */

import {
  formatMark,
  nextMark,
  parseMark,
  type ResendCandidate,
  ResendPlan,
} from "#shared/reconcile/resend-policy.ts";

export type Policy =
  /** No reconciler. */
  | "none"
  /** As in release 0.1: every sweep sends each completion past the grace period again. */
  | "always"
  /** The reconciler's own code. */
  | "plan"
  /** The reconciler's own code, while the queue's counts cannot be read. */
  | "plan_without_counts";

export interface Scenario {
  readonly policy: Policy;
  /** Completions per second. Each has a child that waits for it. */
  readonly load: number;
  /** The capacity of dispatch, in multiples of the load. */
  readonly capacity: number;
  readonly outageMinutes: number;
  /** No more completions arrive after this part of the outage. Default: they never stop. */
  readonly loadStopsAfterMinutes?: number;
  /** Whether the reconciler is away as well during the outage. */
  readonly isReconcilerOut?: boolean;
  /** Completions whose message is never sent: one of so many. Default: none. */
  readonly oneLostOf?: number;
  /** The end of the simulation after the end of the outage. */
  readonly maxMinutes: number;
  readonly seed: number;
}

export interface Course {
  /** Messages in the queue at the end of the outage. */
  readonly queuedAtOutageEnd: number;
  /** The largest number of messages in the queue. */
  readonly peak: number;
  /** Messages in the queue at the end of the simulation. */
  readonly queuedAtEnd: number;
  /** From the end of the outage until dispatch has less than a second of work. Infinity: not within the simulation. */
  readonly recoveryMinutes: number;
  readonly resent: number;
  readonly lost: number;
  /** Lost completions that were not dispatched by the end of the simulation. */
  readonly notFound: number;
  /** From the recovery (or the end of the upstream, if later) until the last lost completion was dispatched. */
  readonly lastFoundMinutes: number;
}

/** Before the outage, everything is normal for this long. */
const WARM_UP_SECONDS = 300;
const SWEEP_SECONDS = 60;
/** SQS's counts may be this old. */
const COUNTS_LAG_SECONDS = 60;
const GRACE_MS = 30_000;
/** Lost completions are not drawn from the last minutes: they could not be found in time. */
const QUIET_SECONDS = 600;

interface Upstream {
  readonly endedAtMs: number;
  readonly isLost: boolean;
  /** As in Valkey. */
  mark: string;
  dispatchedAtMs: number | undefined;
}

export function simulate(scenario: Scenario): Course {
  const { policy, load, capacity, outageMinutes, isReconcilerOut, oneLostOf, maxMinutes, seed } = scenario;
  const random = randomOf(seed);
  const loadEnd = WARM_UP_SECONDS + (scenario.loadStopsAfterMinutes ?? Number.POSITIVE_INFINITY) * 60;
  const outageEnd = WARM_UP_SECONDS + outageMinutes * 60;
  const end = outageEnd + maxMinutes * 60;
  const phase = Math.floor(random() * SWEEP_SECONDS);
  const waiting = new Set<Upstream>();
  const lost: Upstream[] = [];
  const queue = new Fifo<Upstream>();
  const history: number[] = [];
  let credit = 0;
  let resent = 0;
  let peak = 0;
  let queuedAtOutageEnd = 0;
  let recoveredAt = Number.POSITIVE_INFINITY;
  for (let second = 0; second < end; second += 1) {
    const nowMs = second * 1_000;
    for (let arrivals = poisson(second < loadEnd ? load : 0, random); arrivals > 0; arrivals -= 1) {
      const isLost = oneLostOf !== undefined && second < end - QUIET_SECONDS && random() * oneLostOf < 1;
      const upstream: Upstream = { endedAtMs: nowMs, isLost, mark: "", dispatchedAtMs: undefined };
      waiting.add(upstream);
      if (isLost) lost.push(upstream);
      else queue.push(upstream);
    }
    const isOut = second >= WARM_UP_SECONDS && second < outageEnd;
    credit = isOut ? 0 : Math.min(credit + load * capacity, Math.max(1, queue.size));
    while (credit >= 1 && queue.size > 0) {
      credit -= 1;
      const upstream = queue.shift();
      if (upstream === undefined || !waiting.delete(upstream)) continue;
      upstream.dispatchedAtMs = nowMs;
    }
    if (second % SWEEP_SECONDS === phase && !(isOut && isReconcilerOut)) {
      const queued = history[second - COUNTS_LAG_SECONDS] ?? 0;
      const sent = sweep(policy, waiting, nowMs, queued);
      for (const upstream of sent) queue.push(upstream);
      resent += sent.length;
    }
    history.push(queue.size);
    peak = Math.max(peak, queue.size);
    if (second === outageEnd - 1) queuedAtOutageEnd = queue.size;
    if (second >= outageEnd && queue.size < load * capacity) recoveredAt = Math.min(recoveredAt, second);
  }
  const found = lost.flatMap(({ dispatchedAtMs, endedAtMs }) =>
    dispatchedAtMs === undefined
      ? []
      : [(dispatchedAtMs - Math.max(endedAtMs, recoveredAt * 1_000)) / 60_000],
  );
  return {
    queuedAtOutageEnd,
    peak,
    queuedAtEnd: queue.size,
    recoveryMinutes: (recoveredAt - outageEnd) / 60,
    resent,
    lost: lost.length,
    notFound: lost.length - found.length,
    lastFoundMinutes: Math.max(0, ...found),
  };
}

/** The upstreams whose completions one sweep sends. */
function sweep(policy: Policy, waiting: ReadonlySet<Upstream>, nowMs: number, queued: number): Upstream[] {
  if (policy === "none") return [];
  const isPastGrace = ({ endedAtMs }: Upstream): boolean => nowMs - endedAtMs > GRACE_MS;
  if (policy === "always") return [...waiting].filter(isPastGrace);
  const plan = new ResendPlan<ResendCandidate & { readonly upstream: Upstream }>(GRACE_MS);
  for (const upstream of waiting) {
    const { endedAtMs, mark } = upstream;
    plan.count(endedAtMs, nowMs);
    if (!isPastGrace(upstream)) continue;
    plan.add({ upstream, end: String(endedAtMs), endedAtMs, mark: parseMark(mark) }, nowMs);
  }
  return plan.select(policy === "plan" ? queued : undefined).map((candidate) => {
    candidate.upstream.mark = formatMark(nextMark(candidate, nowMs));
    return candidate.upstream;
  });
}

/** A queue whose `shift` takes constant time. */
class Fifo<T> {
  #items: T[] = [];
  #first = 0;

  get size(): number {
    return this.#items.length - this.#first;
  }

  push(item: T): void {
    this.#items.push(item);
  }

  shift(): T | undefined {
    const item = this.#items[this.#first];
    if (item === undefined) return undefined;
    this.#first += 1;
    if (this.#first > 10_000 && this.#first * 2 > this.#items.length) {
      this.#items = this.#items.slice(this.#first);
      this.#first = 0;
    }
    return item;
  }
}

/** Numbers from 0 to 1 (mulberry32). */
function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A number of arrivals with the given mean (Knuth's method). */
function poisson(mean: number, random: () => number): number {
  const limit = Math.exp(-mean);
  let arrivals = 0;
  for (let product = random(); product > limit; product *= random()) arrivals += 1;
  return arrivals;
}

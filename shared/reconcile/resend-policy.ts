/**
 * Decides which completions a run may send again. Pure: the simulation `bench/benchmarks/overload.ts` runs this code.
 *
 * The same rules hold for ready messages, where they read: an execution that is eligible and unclaimed, for an upstream that
 * ended; the queue of its lane, for the completions queue; its workers, for dispatch.
 *
 * An upstream that ended, and that a child still waits for, has either lost its completion or has it in the queue. The
 * two look the same in Valkey. Resending a completion that is merely late costs dispatch as much as a new one, so an
 * unlimited reconciler turns a backlog into an overload that never ends. Two rules prevent that:
 *
 * - A mark for each upstream: after a send, the next one waits 1, 2, 4 … 60 minutes, whatever the counts say.
 * - An allowance for each run: the more messages the queue holds, the fewer completions a run sends. At least one, so
 *   that a lost completion is always found.
 */

const MINUTE_MS = 60_000;
const FIRST_DELAY_MS = MINUTE_MS;
const LONGEST_DELAY_MS = 60 * MINUTE_MS;
/** A mark outlives the longest delay, so that the delay does not start again at one minute. */
export const MARK_TTL_SECONDS = 7_200;

/** How long the queue's counts lag behind. An upstream that ended earlier is in the count if its message is queued. */
const COUNTS_LAG_MS = MINUTE_MS;
/** Upstreams that ended within this time and still have waiting children tell how much arrives in a minute. */
const RECENT_MS = MINUTE_MS;
/** With at most this many messages in the queue, dispatch is not behind: a run may send as many. */
const NO_BACKLOG = 10;
/** Behind a backlog of up to a minute, a run sends at most this share of what arrives in a minute. */
const TRICKLE = 1 / 30;
/** Due completions that are remembered until the end of a run. The rest is due in the next sweep. */
const MAX_DUE = 50_000;

/** What Valkey stores about the completions that the reconciler has sent for an upstream. */
export interface ResendMark {
  /**
   * The end of the upstream (`completed_at`) that the completions were sent for; of a ready message, the eligibility
   * (`eligibilityOf`). After a replay, it differs.
   */
  readonly end: string;
  /** How many were sent. */
  readonly sends: number;
  /** When the last one was sent: milliseconds since the epoch, by the server's clock. */
  readonly sentAtMs: number;
}

const MARK = /^([\d:]{0,40})\|(\d{1,6})\|(\d{1,15})$/;

/** Parses the output of `formatMark`. Returns undefined for anything else: the completion then counts as never sent. */
export function parseMark(text: string): ResendMark | undefined {
  const [, end, sends, sentAt] = MARK.exec(text) ?? [];
  if (end === undefined) return undefined;
  return { end, sends: Number(sends), sentAtMs: Number(sentAt) };
}

export function formatMark({ end, sends, sentAtMs }: ResendMark): string {
  return `${end}|${sends}|${Math.floor(sentAtMs)}`;
}

/** Milliseconds between the send number `sends` (from 1) and the next one: 1, 2, 4 … 60 minutes. */
export function delayAfter(sends: number): number {
  return Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** Math.max(0, sends - 1));
}

/** An upstream that ended longer ago than the grace period. */
export interface ResendCandidate {
  /** When it ended, as its record says. */
  readonly end: string;
  /** Milliseconds since the epoch; undefined if the record has no time. */
  readonly endedAtMs: number | undefined;
  readonly mark: ResendMark | undefined;
}

/** The mark of the candidate's current end. A mark of an earlier end, before a replay, does not count. */
function currentMark({ end, mark }: ResendCandidate): ResendMark | undefined {
  return mark?.end === end ? mark : undefined;
}

/** Whether a completion is due. A mark from the future (the server's clock was set back) does not count. */
export function isDue(candidate: ResendCandidate, nowMs: number): boolean {
  const mark = currentMark(candidate);
  if (mark === undefined) return true;
  const elapsedMs = nowMs - mark.sentAtMs;
  return elapsedMs >= delayAfter(mark.sends) || elapsedMs < -MINUTE_MS;
}

/** The mark to write before a completion is sent. */
export function nextMark(candidate: ResendCandidate, nowMs: number): ResendMark {
  return { end: candidate.end, sends: (currentMark(candidate)?.sends ?? 0) + 1, sentAtMs: nowMs };
}

/** What a run has counted. */
export interface ResendCounts {
  /** Messages in the queue: visible, in flight and delayed. Undefined if the counts could not be read. */
  readonly queued: number | undefined;
  /** Due upstreams that ended so long ago that their messages are in `queued`, unless they are lost. */
  readonly overdue: number;
  /** The other due upstreams: they ended within the minute before the grace period. */
  readonly fresh: number;
  /** Upstreams with waiting children that ended within the last minute. */
  readonly recent: number;
}

/**
 * How many completions a run may send, at least 1. The largest of:
 *
 * - `overdue` − `queued`: so many are certainly not in the queue.
 * - a thirtieth of `recent`, divided by the length of the backlog in minutes (`queued` / `recent`) if that is above 1.
 * - 10, if the queue holds no more than that.
 *
 * If the counts are unknown, `fresh` tells whether dispatch is behind: it then processes no completion in time. If it is
 * behind, a thirtieth of `recent`, else 10 and `recent`. Not all: while dispatch is away, workers may have nothing left to
 * complete, and then nothing is fresh.
 */
export function allowance({ queued, overdue, fresh, recent }: ResendCounts): number {
  if (queued === undefined) {
    return fresh <= NO_BACKLOG ? NO_BACKLOG + recent : Math.max(1, Math.floor(recent * TRICKLE));
  }
  const missing = overdue - queued;
  const trickle = recent === 0 ? 0 : (recent * TRICKLE) / Math.max(1, queued / recent);
  const idle = queued <= NO_BACKLOG ? NO_BACKLOG : 0;
  return Math.max(1, Math.floor(Math.max(missing, trickle, idle)));
}

/** Collects the upstreams that a run has found, and selects those to send a completion for. */
export class ResendPlan<T extends ResendCandidate> {
  readonly #graceMs: number;
  #due: T[] = [];
  #dueCount = 0;
  #overdue = 0;
  #recent = 0;

  constructor(graceMs: number) {
    this.#graceMs = graceMs;
  }

  /** The number of due completions, selected or not. */
  get dueCount(): number {
    return this.#dueCount;
  }

  /** Counts an upstream that has ended, each once. */
  count(endedAtMs: number | undefined, nowMs: number): void {
    if (endedAtMs !== undefined && Math.abs(nowMs - endedAtMs) <= RECENT_MS) this.#recent += 1;
  }

  /** Adds an upstream past the grace period, each once. */
  add(candidate: T, nowMs: number): void {
    if (!isDue(candidate, nowMs)) return;
    this.#dueCount += 1;
    const { endedAtMs } = candidate;
    const isOverdue = endedAtMs === undefined || Math.abs(nowMs - endedAtMs) > this.#graceMs + COUNTS_LAG_MS;
    if (isOverdue) this.#overdue += 1;
    this.#due.push(candidate);
    if (this.#due.length >= 2 * MAX_DUE) this.#due = this.#inOrder().slice(0, MAX_DUE);
  }

  /**
   * The candidates to send a completion for: those with the fewest sends first, then the oldest. So a lost completion is
   * reached after the messages that were sent before it are processed, even behind a backlog that lasts.
   */
  select(queued: number | undefined): T[] {
    const overdue = this.#overdue;
    const limit = allowance({ queued, overdue, fresh: this.#dueCount - overdue, recent: this.#recent });
    return this.#inOrder().slice(0, Math.min(limit, MAX_DUE));
  }

  #inOrder(): T[] {
    return this.#due
      .map((candidate) => ({
        candidate,
        sends: currentMark(candidate)?.sends ?? 0,
        endedAtMs: candidate.endedAtMs ?? 0,
      }))
      .sort((left, right) => left.sends - right.sends || left.endedAtMs - right.endedAtMs)
      .map(({ candidate }) => candidate);
  }
}

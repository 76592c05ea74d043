/** Replays message by message: receives, sends and deletes. Each message of the dead-letter queue is seen once. */

import { pairResults } from "#shared/contract/results.ts";
import { PublishError } from "#shared/errors.ts";
import type { BatchSender, SendResult } from "#shared/queue/batch-sender.ts";
import { type Clock, type Limits, RateLimiter } from "#shared/redrive/clock.ts";
import { matches } from "#shared/redrive/filter.ts";
import { type DeadLetter, replayEntry } from "#shared/redrive/message.ts";
import type { DeadLetterQueue } from "#shared/redrive/queue.ts";
import type { EndReason, ReceiveContinuation, RedriveReport, Totals } from "#shared/redrive/report.ts";
import { ReportBuilder } from "#shared/redrive/report-builder.ts";
import type { RedriveRequest } from "#shared/redrive/request.ts";

const MAX_CONCURRENT_RECEIVES = 5;
/** Messages per second that sequential receive requests return. */
const RATE_PER_RECEIVER = 100;
/** After this many rounds in a row with known messages only, the queue counts as read. */
const IDLE_ROUNDS = 2;
/** The pass fails after this many sends in a row of which no message was accepted. */
const MAX_FAILED_SENDS = 5;

export interface ReplayPassPorts {
  readonly deadLetters: DeadLetterQueue;
  /** Sends to the completions queue. */
  readonly sender: Pick<BatchSender, "send">;
  readonly clock: Clock;
  readonly maxReplays: number;
  /** The maximum number of hidden messages. SQS stops returning messages at 120,000 in flight. */
  readonly maxHidden: number;
  readonly onProgress: (totals: Totals) => void;
  /** Called once for every message. */
  readonly onMessage?: (message: DeadLetter) => void;
  /** Called for every selected message with what became of it. */
  readonly onOutcome?: (message: DeadLetter, outcome: LetterOutcome) => void;
  /** The slice ends after so many messages; no limit by default. A few more may be seen. */
  readonly maxSeen?: number;
}

/** What became of a selected message. */
export type LetterOutcome =
  /** A dry run: it would be replayed. */
  | { readonly kind: "matching" }
  | { readonly kind: "replayed" }
  /** It was sent, and is still in the dead-letter queue. */
  | { readonly kind: "undeleted" }
  | { readonly kind: "over_limit" }
  | { readonly kind: "failed"; readonly error: Error };

/**
 * One slice of a pass over the queue. Messages that stay are hidden until the pass ends, so that none is seen twice, and
 * are then made visible again. A message is deleted only after it was sent: dying in between replays it twice, which
 * changes nothing.
 *
 * A message that was dead-lettered after the pass began is left to the next pass. Otherwise a message that keeps failing
 * would use up all its replays in one pass.
 */
export class ReplayPass {
  readonly #ports: ReplayPassPorts;
  readonly #request: RedriveRequest;
  readonly #startedAt: number;
  readonly #rateLimiter: RateLimiter;
  readonly #report: ReportBuilder;
  /** Messages that stay in the queue: id to latest receipt handle. */
  readonly #hidden: Map<string, string>;
  /** Ids of messages that were sent but could not be deleted. */
  readonly #undeleted = new Set<string>();
  /** The ids that the filter names and the pass has not seen; undefined if it names none. */
  readonly #unseenIds: Set<string> | undefined;
  #seenInSlice = 0;
  #failedSends = 0;

  constructor(ports: ReplayPassPorts, request: RedriveRequest, continued?: ReceiveContinuation) {
    this.#ports = ports;
    this.#request = request;
    this.#startedAt = continued?.started_at ?? ports.clock.now();
    this.#rateLimiter = new RateLimiter(ports.clock, request.rate, continued?.next_send_at ?? 0);
    this.#report = new ReportBuilder(continued?.totals);
    this.#hidden = new Map(continued?.held);
    const { messageIds } = request.filter;
    this.#unseenIds = messageIds === undefined ? undefined : new Set(messageIds);
  }

  /**
   * Runs until the queue has no new message, or until a limit. Rejects with a QueueError after it has made the hidden
   * messages visible again.
   */
  async run(limits: Limits): Promise<RedriveReport> {
    try {
      return await this.end(await this.#rounds(limits));
    } catch (error) {
      await this.#makeVisible([...this.#hidden.values()]);
      throw error;
    }
  }

  /** Ends the slice, and the pass unless the reason is `slice`. */
  async end(ended: EndReason): Promise<RedriveReport> {
    const isDone = ended !== "slice";
    if (isDone) await this.#makeVisible([...this.#hidden.values()]);
    return {
      ...this.#report.totals,
      dry_run: this.#request.dryRun,
      method: "receive",
      done: isDone,
      ended,
      over_limit_ids: this.#report.overLimitIds,
      notes: this.#report.notes,
      ...(isDone ? {} : { continuation: this.#continuation() }),
    };
  }

  async #rounds(limits: Limits): Promise<EndReason> {
    let idleRounds = 0;
    for (;;) {
      const ended = this.#endReason(limits);
      if (ended !== undefined) return ended;
      const remainingMs = limits.deadlineMs - this.#ports.clock.now();
      const messages = await this.#ports.deadLetters.receive(this.#concurrentReceives(), remainingMs);
      if (messages === undefined) return "slice";
      if (messages.length === 0) return "complete";
      const fresh = await this.#selectDue(messages);
      idleRounds = fresh === undefined ? idleRounds + 1 : 0;
      if (idleRounds === IDLE_ROUNDS) return "complete";
      const stoppedBy = await this.#replay(fresh ?? [], limits);
      if (stoppedBy !== undefined) return stoppedBy;
      this.#ports.onProgress(this.#report.totals);
    }
  }

  #endReason({ signal, deadlineMs }: Limits): EndReason | undefined {
    if (signal.aborted) return "stopped";
    if (this.#unseenIds?.size === 0) return "complete";
    if (this.#seenInSlice >= (this.#ports.maxSeen ?? Number.POSITIVE_INFINITY)) return "slice";
    if (this.#hidden.size >= this.#ports.maxHidden) {
      this.#report.addNote(
        `the pass ended early: it reached its limit of ${this.#ports.maxHidden} hidden messages`,
      );
      return "held_limit";
    }
    return this.#ports.clock.now() >= deadlineMs ? "slice" : undefined;
  }

  #concurrentReceives(): number {
    const { rate, dryRun } = this.#request;
    return dryRun
      ? MAX_CONCURRENT_RECEIVES
      : Math.min(MAX_CONCURRENT_RECEIVES, Math.ceil(rate / RATE_PER_RECEIVER));
  }

  /** Hides messages that stay and returns those to replay. Undefined if every message was known. */
  async #selectDue(messages: readonly DeadLetter[]): Promise<DeadLetter[] | undefined> {
    const due: DeadLetter[] = [];
    const alreadySent: string[] = [];
    let isNew = false;
    for (const message of messages) {
      if (this.#undeleted.has(message.id)) alreadySent.push(message.handle);
      else if (this.#hidden.has(message.id)) this.#hidden.set(message.id, message.handle);
      else if (!due.some(({ id }) => id === message.id)) {
        isNew = true;
        this.#seenInSlice += 1;
        this.#unseenIds?.delete(message.id);
        this.#ports.onMessage?.(message);
        if (this.#isDue(message)) due.push(message);
      }
    }
    await this.#ports.deadLetters.delete(alreadySent);
    return isNew ? due : undefined;
  }

  #isDue(message: DeadLetter): boolean {
    const { filter, dryRun } = this.#request;
    const isTooNew = message.sentAt !== undefined && message.sentAt > this.#startedAt;
    if (isTooNew || !matches(filter, message, this.#startedAt)) this.#keepHidden(message, "kept");
    else if (message.replays >= this.#ports.maxReplays) this.#keepSelected(message, "over_limit");
    else if (dryRun) this.#keepSelected(message, "matching");
    else return true;
    return false;
  }

  #keepSelected(message: DeadLetter, as: "over_limit" | "matching"): void {
    this.#keepHidden(message, as);
    this.#ports.onOutcome?.(message, { kind: as });
  }

  #keepHidden({ id, handle }: DeadLetter, as: Parameters<ReportBuilder["countKept"]>[1]): void {
    this.#hidden.set(id, handle);
    this.#report.countKept(id, as);
  }

  /** Sends messages at the requested rate. Returns the reason if it ended before the last one. */
  async #replay(due: readonly DeadLetter[], limits: Limits): Promise<EndReason | undefined> {
    const { batchSize } = this.#rateLimiter;
    for (let start = 0; start < due.length; start += batchSize) {
      const chunk = due.slice(start, start + batchSize);
      const ended = await this.#awaitSlot(chunk.length, limits);
      if (ended !== undefined) {
        // These do not count as seen: the next slice or the next pass receives them again.
        await this.#makeVisible(due.slice(start).map(({ handle }) => handle));
        return ended;
      }
      await this.#send(chunk);
      this.#ports.onProgress(this.#report.totals);
    }
    return this.#failedSends >= MAX_FAILED_SENDS ? "failed" : undefined;
  }

  /** Waits until messages may be sent. Returns the reason if the slice must end first. */
  async #awaitSlot(count: number, limits: Limits): Promise<EndReason | undefined> {
    if (this.#failedSends >= MAX_FAILED_SENDS) return "failed";
    if (await this.#rateLimiter.acquire(count, limits)) return undefined;
    return limits.signal.aborted ? "stopped" : "slice";
  }

  async #send(chunk: readonly DeadLetter[]): Promise<void> {
    const results = await this.#ports.sender.send(chunk.map(replayEntry));
    const accepted: DeadLetter[] = [];
    // With another number of results, their positions mean nothing. Deleting by them could lose a message.
    const trusted = results.length === chunk.length ? results : [];
    for (const { item: message, result } of pairResults(chunk, trusted, noResult)) {
      if (result.ok) accepted.push(message);
      else {
        this.#hidden.set(message.id, message.handle);
        this.#report.addNote(`message ${message.id} was not sent and stays: ${result.error.message}`);
        this.#ports.onOutcome?.(message, { kind: "failed", error: result.error });
      }
    }
    const undeleted = new Set(await this.#ports.deadLetters.delete(accepted.map(({ handle }) => handle)));
    for (const message of accepted) {
      const { id, handle } = message;
      const isDeleted = !undeleted.has(handle);
      this.#ports.onOutcome?.(message, { kind: isDeleted ? "replayed" : "undeleted" });
      if (isDeleted) continue;
      this.#undeleted.add(id);
      this.#report.addNote(
        `message ${id} was sent but could not be deleted: it may be replayed twice, which is harmless`,
      );
    }
    this.#report.countSent(chunk.length, accepted.length);
    this.#failedSends = accepted.length === 0 ? this.#failedSends + 1 : 0;
  }

  async #makeVisible(handles: readonly string[]): Promise<void> {
    const hidden = await this.#ports.deadLetters.makeVisible(handles);
    if (hidden > 0) {
      this.#report.addNote(
        `${hidden} messages could not be made visible: they reappear after their visibility timeout`,
      );
    }
  }

  #continuation(): ReceiveContinuation {
    return {
      pass: "receive",
      started_at: this.#startedAt,
      next_send_at: this.#rateLimiter.nextAt,
      totals: this.#report.totals,
      held: [...this.#hidden],
    };
  }
}

function noResult(): SendResult {
  return { ok: false, error: new PublishError("the sender returned no result for the message") };
}

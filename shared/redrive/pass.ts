/** Replay by receiving, sending and deleting: each message of the dead-letter queue is seen once. */

import type { BatchSender } from "#shared/queue/batch-sender.ts";
import { type Clock, type Limits, Pacer } from "#shared/redrive/clock.ts";
import { matches } from "#shared/redrive/filter.ts";
import { type DeadMessage, replayOf } from "#shared/redrive/message.ts";
import type { DeadLetterQueue } from "#shared/redrive/queue.ts";
import type { Ended, ReceiveContinuation, RedriveReport, Totals } from "#shared/redrive/report.ts";
import type { RedriveRequest } from "#shared/redrive/request.ts";
import { Tally } from "#shared/redrive/tally.ts";

const MOST_RECEIVES = 5;
/** Messages a second that one request after the other brings. */
const PER_RECEIVE = 100;
/** Rounds that bring only known messages, whose time hidden was up, before the queue counts as read. */
const IDLE_ROUNDS = 2;
/** Sends in a row of which nothing was accepted, before the pass gives up. */
const FAILED_SENDS = 5;

export interface PassPorts {
  readonly deadLetters: DeadLetterQueue;
  /** Where the messages go. */
  readonly sender: Pick<BatchSender, "send">;
  readonly clock: Clock;
  readonly maxReplays: number;
  /** Messages that it may keep hidden at once. SQS ends receiving at 120,000. */
  readonly maxHeld: number;
  readonly onProgress: (totals: Totals) => void;
  /** Hears of every message that is new to the pass. */
  readonly onMessage?: (message: DeadMessage) => void;
}

/**
 * One slice of a pass. What stays in the queue is hidden until the pass' end, so that no message is seen twice, and
 * then made visible again. A message is deleted after it was sent and never before: dying in between sends it twice,
 * which changes nothing.
 *
 * A message that came into the queue after the pass began is left to the next pass. Otherwise one that fails again at
 * once would go round until it had used up its replays.
 */
export class Pass {
  readonly #ports: PassPorts;
  readonly #request: RedriveRequest;
  readonly #startedAt: number;
  readonly #pacer: Pacer;
  readonly #tally: Tally;
  /** Message id to the handle of its last delivery. */
  readonly #held: Map<string, string>;
  /** Messages that were sent and could not be deleted. */
  readonly #sent = new Set<string>();
  #failedSends = 0;

  constructor(ports: PassPorts, request: RedriveRequest, continued?: ReceiveContinuation) {
    this.#ports = ports;
    this.#request = request;
    this.#startedAt = continued?.started_at ?? ports.clock.now();
    this.#pacer = new Pacer(ports.clock, request.rate, continued?.next_send_at ?? 0);
    this.#tally = new Tally(continued?.totals);
    this.#held = new Map(continued?.held);
  }

  /** Goes on until the queue gives nothing new, or a limit. Rejects with a QueueError, having put back what it held. */
  async run(limits: Limits): Promise<RedriveReport> {
    try {
      return await this.end(await this.#rounds(limits));
    } catch (error) {
      await this.#putBack([...this.#held.values()]);
      throw error;
    }
  }

  /** Ends the slice and, but for the end of a slice's time, the pass. */
  async end(ended: Ended): Promise<RedriveReport> {
    const isDone = ended !== "slice";
    if (isDone) await this.#putBack([...this.#held.values()]);
    return {
      ...this.#tally.totals,
      dry_run: this.#request.dryRun,
      method: "receive",
      done: isDone,
      ended,
      over_limit_ids: this.#tally.overLimitIds,
      notes: this.#tally.notes,
      ...(isDone ? {} : { continuation: this.#continuation() }),
    };
  }

  async #rounds(limits: Limits): Promise<Ended> {
    let idleRounds = 0;
    for (;;) {
      const ended = this.#ending(limits);
      if (ended !== undefined) return ended;
      const leftMs = limits.deadlineMs - this.#ports.clock.now();
      const messages = await this.#ports.deadLetters.receive(this.#receives(), leftMs);
      if (messages === undefined) return "slice";
      if (messages.length === 0) return "complete";
      const fresh = await this.#sortOut(messages);
      idleRounds = fresh === undefined ? idleRounds + 1 : 0;
      if (idleRounds === IDLE_ROUNDS) return "complete";
      const cutShort = await this.#replay(fresh ?? [], limits);
      if (cutShort !== undefined) return cutShort;
      this.#ports.onProgress(this.#tally.totals);
    }
  }

  #ending({ signal, deadlineMs }: Limits): Ended | undefined {
    if (signal.aborted) return "stopped";
    if (this.#held.size >= this.#ports.maxHeld) {
      this.#tally.note(
        `the pass ended before the queue did: it may keep ${this.#ports.maxHeld} messages hidden`,
      );
      return "held_limit";
    }
    return this.#ports.clock.now() >= deadlineMs ? "slice" : undefined;
  }

  #receives(): number {
    const { rate, dryRun } = this.#request;
    return dryRun ? MOST_RECEIVES : Math.min(MOST_RECEIVES, Math.ceil(rate / PER_RECEIVE));
  }

  /** Holds back what stays. Those to replay; undefined where the round brought no message that is new. */
  async #sortOut(messages: readonly DeadMessage[]): Promise<DeadMessage[] | undefined> {
    const due: DeadMessage[] = [];
    const sentBefore: string[] = [];
    let isNew = false;
    for (const message of messages) {
      if (this.#sent.has(message.id)) sentBefore.push(message.handle);
      else if (this.#held.has(message.id)) this.#held.set(message.id, message.handle);
      else if (!due.some(({ id }) => id === message.id)) {
        isNew = true;
        this.#ports.onMessage?.(message);
        if (this.#isDue(message)) due.push(message);
      }
    }
    await this.#ports.deadLetters.delete(sentBefore);
    return isNew ? due : undefined;
  }

  #isDue(message: DeadMessage): boolean {
    const { filter, dryRun } = this.#request;
    const cameLater = message.sentAt !== undefined && message.sentAt > this.#startedAt;
    if (cameLater || !matches(filter, message, this.#startedAt)) this.#hold(message, "kept");
    else if (message.replays >= this.#ports.maxReplays) this.#hold(message, "over_limit");
    else if (dryRun) this.#hold(message, "matching");
    else return true;
    return false;
  }

  #hold({ id, handle }: DeadMessage, as: Parameters<Tally["stays"]>[1]): void {
    this.#held.set(id, handle);
    this.#tally.stays(id, as);
  }

  /** Sends what is due, at the chosen rate. Why it ended before the last one, if it did. */
  async #replay(due: readonly DeadMessage[], limits: Limits): Promise<Ended | undefined> {
    const { together } = this.#pacer;
    for (let start = 0; start < due.length; start += together) {
      const chunk = due.slice(start, start + together);
      const ended = await this.#cutShort(chunk.length, limits);
      if (ended !== undefined) {
        // Not seen, as far as this pass is concerned: the next slice, or the next pass, receives them again.
        await this.#putBack(due.slice(start).map(({ handle }) => handle));
        return ended;
      }
      await this.#send(chunk);
      this.#ports.onProgress(this.#tally.totals);
    }
    return this.#failedSends >= FAILED_SENDS ? "failed" : undefined;
  }

  async #cutShort(count: number, limits: Limits): Promise<Ended | undefined> {
    if (this.#failedSends >= FAILED_SENDS) return "failed";
    if (await this.#pacer.turn(count, limits)) return undefined;
    return limits.signal.aborted ? "stopped" : "slice";
  }

  async #send(chunk: readonly DeadMessage[]): Promise<void> {
    const results = await this.#ports.sender.send(chunk.map(replayOf));
    const accepted: DeadMessage[] = [];
    for (const [position, message] of chunk.entries()) {
      const result = results[position];
      if (result?.ok) accepted.push(message);
      else {
        this.#held.set(message.id, message.handle);
        this.#tally.note(
          `message ${message.id} was not sent and stays: ${result?.error.message ?? "no answer"}`,
        );
      }
    }
    const undeleted = new Set(await this.#ports.deadLetters.delete(accepted.map(({ handle }) => handle)));
    for (const { id, handle } of accepted) {
      if (!undeleted.has(handle)) continue;
      this.#sent.add(id);
      this.#tally.note(
        `message ${id} was sent and could not be deleted: it may be replayed twice, which does no harm`,
      );
    }
    this.#tally.sent(chunk.length, accepted.length);
    this.#failedSends = accepted.length === 0 ? this.#failedSends + 1 : 0;
  }

  async #putBack(handles: readonly string[]): Promise<void> {
    const hidden = await this.#ports.deadLetters.putBack(handles);
    if (hidden > 0) {
      this.#tally.note(
        `${hidden} messages could not be made visible at once: they reappear when their time is up`,
      );
    }
  }

  #continuation(): ReceiveContinuation {
    return {
      pass: "receive",
      started_at: this.#startedAt,
      next_send_at: this.#pacer.nextAt,
      totals: this.#tally.totals,
      held: [...this.#held],
    };
  }
}

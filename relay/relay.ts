import { Duplicates } from "#relay/duplicates.ts";
import { Forwarder } from "#relay/forwarder.ts";
import { readPublished } from "#relay/published.ts";
import { Subscriptions } from "#relay/subscriptions.ts";
import { newTally, type Tally } from "#relay/tally.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import type { Log } from "#shared/runtime/telemetry.ts";
import type { ValkeyAddress } from "#shared/valkey/address.ts";

export interface RelayPorts {
  readonly address: ValkeyAddress;
  readonly publisher: CompletionPublisher;
  readonly log: Log;
  /** Maximum completions to hold while the queue is unavailable; the default is 100,000. */
  readonly capacity?: number;
}

/** Forwards each published completion to the queue once. */
export class Relay {
  readonly tally: Tally = newTally();
  readonly #log: Log;
  readonly #forwarder: Forwarder;
  readonly #subscriptions: Subscriptions;
  /** Undefined for a standalone server, which delivers each event once. */
  readonly #duplicates: Duplicates | undefined;

  constructor({ address, publisher, log, ...settings }: RelayPorts) {
    const { tally } = this;
    this.#log = log;
    this.#duplicates = address.cluster ? new Duplicates() : undefined;
    this.#forwarder = new Forwarder({ publisher, tally, log, ...settings });
    this.#subscriptions = new Subscriptions({
      address,
      tally,
      log,
      onEvent: (node, event) => this.#take(node, event),
    });
  }

  /** Number of nodes with a live subscription. At 0 the relay receives nothing. */
  get live(): number {
    return this.#subscriptions.live;
  }

  /** Completions that are not in flight yet. */
  get waiting(): number {
    return this.#forwarder.waiting;
  }

  /**
   * Unsubscribes, then drains until `deadlineMs` (milliseconds since the epoch). Returns the number of completions that
   * the queue has not accepted by then.
   */
  async stop(deadlineMs: number): Promise<number> {
    await this.#subscriptions.stop();
    return this.#forwarder.close(deadlineMs);
  }

  #take(node: string, event: string): void {
    const { tally } = this;
    tally.received += 1;
    if (this.#duplicates?.isNew(node, event) === false) {
      tally.duplicate += 1;
      return;
    }
    const published = readPublished(event);
    if (published.kind === "completion") this.#forwarder.offer(published.completion);
    else tally[published.kind] += 1;
    if (published.kind === "malformed") {
      this.#log.warn("malformed event skipped", { node, reason: published.reason });
    }
  }
}

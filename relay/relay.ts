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
  /** Completions that may wait for the queue; 100,000 unless given. */
  readonly capacity?: number;
}

/** Hears completions as they are published, and hands each to the queue once. */
export class Relay {
  readonly tally: Tally = newTally();
  readonly #log: Log;
  readonly #forwarder: Forwarder;
  readonly #subscriptions: Subscriptions;
  /** One server delivers an event once. */
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

  /** Nodes that are heard now; none: the relay is deaf. */
  get live(): number {
    return this.#subscriptions.live;
  }

  /** Completions that are not under way to the queue yet. */
  get waiting(): number {
    return this.#forwarder.waiting;
  }

  /**
   * Ends the subscriptions, then sends what waits until `deadlineMs` (milliseconds since the epoch). The number of
   * completions that the queue has not accepted by then.
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
      this.#log.warn("what was published is left out", { node, reason: published.reason });
    }
  }
}

import { NodeConnection } from "#relay/node.ts";
import { backoffMs, pause } from "#relay/pause.ts";
import type { Tally } from "#relay/tally.ts";
import { COMPLETIONS_CHANNEL } from "#shared/contract/keys.ts";
import { messageOf } from "#shared/errors.ts";
import type { Log } from "#shared/runtime/telemetry.ts";
import { type NodeAddress, nameOf, type ValkeyAddress } from "#shared/valkey/address.ts";

/** Together with the reply timeout, this bounds the time to detect a dead connection. */
const PING_INTERVAL_MS = 5_000;
/**
 * ElastiCache closes a connection 12 hours after its IAM authentication. The relay replaces each one earlier, after a
 * random time of 8 to 11 hours, so that the nodes do not reconnect at the same moment.
 */
const IAM_MAX_AGE_MS = 11 * 3_600_000;
const FIRST_PAUSE_MS = 100;
const MAX_PAUSE_MS = 10_000;

export interface SubscriptionPorts {
  readonly address: ValkeyAddress;
  readonly tally: Tally;
  readonly log: Log;
  /** Receives every event and the name of the node that delivered it. */
  readonly onEvent: (node: string, event: string) => void;
}

/** A subscription to the completions channel of one node. It replaces a lost connection until it is stopped. */
export class Subscription {
  readonly #ports: SubscriptionPorts;
  readonly #node: NodeAddress;
  readonly #name: string;
  readonly #stopping = new AbortController();
  readonly #ended: Promise<void>;
  #isLive = false;
  #wasLive = false;

  constructor(ports: SubscriptionPorts, node: NodeAddress) {
    this.#ports = ports;
    this.#node = node;
    this.#name = nameOf(node);
    this.#ended = this.#run();
  }

  /** Whether the node has confirmed the subscription and answers. */
  get isLive(): boolean {
    return this.#isLive;
  }

  /** Unsubscribes. Events that the node delivers before its confirmation are still received. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#ended;
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    let failures = 0;
    while (!signal.aborted) {
      this.#isLive = false;
      try {
        await this.#listen();
      } catch (error) {
        failures = this.#isLive ? 1 : failures + 1;
        this.#isLive = false;
        this.#ports.log.warn("node not subscribed, will retry", {
          node: this.#name,
          failures,
          reason: messageOf(error),
        });
        await pause(backoffMs(failures, FIRST_PAUSE_MS, MAX_PAUSE_MS), signal);
      }
    }
    this.#isLive = false;
  }

  /** Uses one connection. Resolves when it reaches its maximum age or on stop; rejects when it is lost. */
  async #listen(): Promise<void> {
    const { signal } = this.#stopping;
    const connection = new NodeConnection(this.#ports.address, this.#node);
    const { client } = connection;
    client.on("message", (_channel: string, event: string) => this.#ports.onEvent(this.#name, event));
    try {
      await connection.ask(() => client.subscribe(COMPLETIONS_CHANNEL));
      this.#noteLive();
      const endMs = performance.now() + this.#maxAgeMs();
      while (!signal.aborted && performance.now() < endMs) {
        await connection.idle(pause(PING_INTERVAL_MS, signal));
        if (!signal.aborted) await connection.ask(() => client.ping());
      }
      await connection.ask(() => client.unsubscribe(COMPLETIONS_CHANNEL));
    } finally {
      connection.close();
    }
  }

  #maxAgeMs(): number {
    const { auth } = this.#ports.address;
    return auth?.kind === "iam" ? IAM_MAX_AGE_MS * (1 - Math.random() / 4) : Number.POSITIVE_INFINITY;
  }

  #noteLive(): void {
    if (this.#wasLive) this.#ports.tally.reconnects += 1;
    this.#isLive = true;
    this.#wasLive = true;
    this.#ports.log.info("node subscribed", { node: this.#name });
  }
}

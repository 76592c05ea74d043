import { type NodeAddress, NodeConnection, nameOf } from "#relay/node.ts";
import { growingPause, pause } from "#relay/pause.ts";
import type { Tally } from "#relay/tally.ts";
import { COMPLETIONS_CHANNEL } from "#shared/contract/keys.ts";
import { messageOf } from "#shared/errors.ts";
import type { Log } from "#shared/runtime/telemetry.ts";
import type { ValkeyAddress } from "#shared/valkey/address.ts";

/** A connection that died without a word is found after this, and the wait for a reply. */
const PING_EVERY_MS = 5_000;
/**
 * ElastiCache drops a connection 12 hours after it checked its IAM token: it is replaced sooner, after eight to eleven
 * hours, so that not all nodes are missed at the same moment.
 */
const IAM_LIFE_MS = 11 * 3_600_000;
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 10_000;

export interface SubscriptionPorts {
  readonly address: ValkeyAddress;
  readonly tally: Tally;
  readonly log: Log;
  /** Hears of every event, with the name of the node that delivered it. */
  readonly onEvent: (node: string, event: string) => void;
}

/** The completions channel of one node, for as long as it is wanted: a connection that is lost is replaced. */
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

  /** Whether the node has confirmed the subscription, and has answered since. */
  get isLive(): boolean {
    return this.#isLive;
  }

  /** Ends the subscription. All that the node delivers before it confirms that is heard. */
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
        this.#ports.log.warn("a node is not heard", { node: this.#name, failures, reason: messageOf(error) });
        await pause(growingPause(failures, FIRST_PAUSE_MS, LONGEST_PAUSE_MS), signal);
      }
    }
    this.#isLive = false;
  }

  /** One connection's life. Resolves when it has served or is told to stop; rejects when it is lost. */
  async #listen(): Promise<void> {
    const { signal } = this.#stopping;
    const connection = new NodeConnection(this.#ports.address, this.#node);
    const { client } = connection;
    client.on("message", (_channel: string, event: string) => this.#ports.onEvent(this.#name, event));
    try {
      await connection.ask(() => client.subscribe(COMPLETIONS_CHANNEL));
      this.#noteLive();
      const endMs = performance.now() + this.#lifeMs();
      while (!signal.aborted && performance.now() < endMs) {
        await connection.idle(pause(PING_EVERY_MS, signal));
        if (!signal.aborted) await connection.ask(() => client.ping());
      }
      await connection.ask(() => client.unsubscribe(COMPLETIONS_CHANNEL));
    } finally {
      connection.close();
    }
  }

  #lifeMs(): number {
    const { auth } = this.#ports.address;
    return auth?.kind === "iam" ? IAM_LIFE_MS * (1 - Math.random() / 4) : Number.POSITIVE_INFINITY;
  }

  #noteLive(): void {
    if (this.#wasLive) this.#ports.tally.reconnects += 1;
    this.#isLive = true;
    this.#wasLive = true;
    this.#ports.log.info("a node is heard", { node: this.#name });
  }
}

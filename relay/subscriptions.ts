import { backoffMs, pause } from "#relay/pause.ts";
import { Subscription, type SubscriptionPorts } from "#relay/subscription.ts";
import { findNodes } from "#relay/topology.ts";
import { messageOf } from "#shared/errors.ts";
import { type NodeAddress, nameOf, seedNodes } from "#shared/valkey/address.ts";

/** How often the cluster's nodes are listed. Until then, other nodes deliver the events of a new one. */
const DISCOVERY_INTERVAL_MS = 5_000;
/** The first pause after a failed discovery. */
const FIRST_PAUSE_MS = 100;

/**
 * Subscribes to the standalone server, or to every node of a cluster, replicas included.
 *
 * A cluster broadcasts publications to all nodes, so one subscription would receive everything. It would lose events while
 * its node is down or partitioned, since pub/sub keeps nothing for subscribers that reconnect.
 */
export class Subscriptions {
  readonly #ports: SubscriptionPorts;
  readonly #subscriptions = new Map<string, Subscription>();
  readonly #stopping = new AbortController();
  readonly #watching: Promise<void>;
  #nodes: readonly NodeAddress[];
  #discoveries = 0;

  constructor(ports: SubscriptionPorts) {
    this.#ports = ports;
    const seeds = seedNodes(ports.address);
    this.#nodes = seeds;
    if (!ports.address.cluster) this.#listenTo(seeds);
    this.#watching = ports.address.cluster ? this.#watch(seeds) : Promise.resolve();
  }

  /** Number of nodes with a live subscription. */
  get live(): number {
    return [...this.#subscriptions.values()].filter(({ isLive }) => isLive).length;
  }

  /** Unsubscribes from all nodes. Events that they deliver before their confirmations are still received. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#watching;
    await Promise.all([...this.#subscriptions.values()].map((subscription) => subscription.stop()));
  }

  async #watch(seeds: readonly NodeAddress[]): Promise<void> {
    const { signal } = this.#stopping;
    for (let failures = 0; !signal.aborted; ) {
      try {
        // Starts with another node each time, since a partitioned one returns an outdated list.
        const first = this.#discoveries % this.#nodes.length;
        this.#discoveries += 1;
        const inTurn = [...this.#nodes.slice(first), ...this.#nodes.slice(0, first)];
        this.#listenTo(await findNodes(this.#ports.address, [...inTurn, ...seeds], signal));
        failures = 0;
      } catch (error) {
        failures += 1;
        this.#ports.log.warn("cannot list the cluster's nodes, keeping the known ones", {
          reason: messageOf(error),
        });
      }
      await pause(
        failures === 0 ? DISCOVERY_INTERVAL_MS : backoffMs(failures, FIRST_PAUSE_MS, DISCOVERY_INTERVAL_MS),
        signal,
      );
    }
  }

  #listenTo(nodes: readonly NodeAddress[]): void {
    if (this.#stopping.signal.aborted) return;
    const wanted = new Map(nodes.map((node) => [nameOf(node), node]));
    for (const [name, subscription] of this.#subscriptions) {
      if (wanted.has(name)) continue;
      this.#subscriptions.delete(name);
      this.#ports.log.info("node left the cluster", { node: name });
      void subscription.stop();
    }
    for (const [name, node] of wanted) {
      if (!this.#subscriptions.has(name)) this.#subscriptions.set(name, new Subscription(this.#ports, node));
    }
    this.#nodes = [...wanted.values()];
  }
}

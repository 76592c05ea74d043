import { type NodeAddress, nameOf, seedOf } from "#relay/node.ts";
import { growingPause, pause } from "#relay/pause.ts";
import { Subscription, type SubscriptionPorts } from "#relay/subscription.ts";
import { findNodes } from "#relay/topology.ts";
import { messageOf } from "#shared/errors.ts";

/** How soon a node that joined is heard. What is published there is also told by the others, as long as they can. */
const LOOK_EVERY_MS = 5_000;
/** After a look that failed. */
const FIRST_PAUSE_MS = 100;

/**
 * Subscriptions to every node there is: the one server, or all of a cluster, replicas included. A cluster passes on
 * what is published on one node to all, so that one subscription would do; but while that one's node is away, or cut
 * off from others, it would be deaf, and pub/sub keeps nothing for those who come back.
 */
export class Subscriptions {
  readonly #ports: SubscriptionPorts;
  readonly #subscriptions = new Map<string, Subscription>();
  readonly #stopping = new AbortController();
  readonly #watching: Promise<void>;
  #nodes: readonly NodeAddress[];
  #looks = 0;

  constructor(ports: SubscriptionPorts) {
    this.#ports = ports;
    const seed = seedOf(ports.address);
    this.#nodes = [seed];
    if (!ports.address.cluster) this.#listenTo([seed]);
    this.#watching = ports.address.cluster ? this.#watch(seed) : Promise.resolve();
  }

  /** Nodes that are heard now. */
  get live(): number {
    return [...this.#subscriptions.values()].filter(({ isLive }) => isLive).length;
  }

  /** Ends all subscriptions; what the nodes deliver until they confirm that is heard. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#watching;
    await Promise.all([...this.#subscriptions.values()].map((subscription) => subscription.stop()));
  }

  async #watch(seed: NodeAddress): Promise<void> {
    const { signal } = this.#stopping;
    for (let failures = 0; !signal.aborted; ) {
      try {
        // Another node each time: one that is cut off from the others must not have the last word.
        const first = this.#looks % this.#nodes.length;
        this.#looks += 1;
        const inTurn = [...this.#nodes.slice(first), ...this.#nodes.slice(0, first)];
        this.#listenTo(await findNodes(this.#ports.address, [...inTurn, seed], signal));
        failures = 0;
      } catch (error) {
        failures += 1;
        this.#ports.log.warn("the cluster's nodes are not known: going on with those that were", {
          reason: messageOf(error),
        });
      }
      await pause(
        failures === 0 ? LOOK_EVERY_MS : growingPause(failures, FIRST_PAUSE_MS, LOOK_EVERY_MS),
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
      this.#ports.log.info("a node has left the cluster", { node: name });
      void subscription.stop();
    }
    for (const [name, node] of wanted) {
      if (!this.#subscriptions.has(name)) this.#subscriptions.set(name, new Subscription(this.#ports, node));
    }
    this.#nodes = [...wanted.values()];
  }
}

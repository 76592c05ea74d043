import { randomUUID } from "node:crypto";
import { Redis } from "iovalkey";
import { expect, vi } from "vitest";
import { COMPLETIONS_CHANNEL } from "#shared/contract/keys.ts";

/** An event as an engine publishes it, for a new execution. */
export function newEvent(outcome = "success", flowId: string = randomUUID()): { id: string; text: string } {
  const id = `{fp:7}:${randomUUID()}`;
  return { id, text: JSON.stringify({ execution_id: id, flow_id: flowId, outcome }) };
}

/** Publishes on the nodes at these ports. */
export class Publisher implements Disposable {
  readonly #clients: readonly Redis[];

  constructor(ports: readonly number[]) {
    this.#clients = ports.map(connect);
  }

  /** Resolves with the number of subscribers on that node. */
  publish(node: number, text: string): Promise<number> {
    const client = this.#clients[node];
    if (client === undefined) throw new RangeError(`no node ${node}`);
    return client.publish(COMPLETIONS_CHANNEL, text);
  }

  [Symbol.dispose](): void {
    for (const client of this.#clients) client.disconnect();
  }
}

/**
 * Subscribes to every node. A node delivers an event to all its subscribers at once: an event received here has also been
 * sent to every other subscriber of that node.
 */
export class Listener implements Disposable {
  readonly #clients: readonly Redis[];
  /** The texts that each node delivered. */
  readonly received: readonly string[][];

  private constructor(clients: readonly Redis[]) {
    this.#clients = clients;
    this.received = clients.map((client) => {
      const texts: string[] = [];
      client.on("message", (_channel: string, text: string) => texts.push(text));
      return texts;
    });
  }

  static async on(ports: readonly number[]): Promise<Listener> {
    const listener = new Listener(ports.map(connect));
    await Promise.all(listener.#clients.map((client) => client.subscribe(COMPLETIONS_CHANNEL)));
    return listener;
  }

  [Symbol.dispose](): void {
    for (const client of this.#clients) client.disconnect();
  }
}

/**
 * Publishes on each node until all nodes deliver the event. A newly formed cluster may still lack links between nodes,
 * and publications do not cross a missing link.
 */
export async function untilBroadcasting(ports: readonly number[]): Promise<void> {
  using publisher = new Publisher(ports);
  using listener = await Listener.on(ports);
  for (const node of ports.keys()) {
    await vi.waitFor(
      async () => {
        const { text } = newEvent();
        await publisher.publish(node, text);
        await vi.waitFor(() => expect(listener.received.every((texts) => texts.includes(text))).toBe(true), {
          timeout: 200,
          interval: 5,
        });
      },
      { timeout: 20_000 },
    );
  }
}

function connect(port: number): Redis {
  const client = new Redis({ host: "127.0.0.1", port, retryStrategy: () => null });
  // Tests kill nodes; the promises of the commands reject then.
  client.on("error", () => undefined);
  return client;
}

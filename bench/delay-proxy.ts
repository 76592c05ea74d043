import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";

/** Timers are good to a millisecond; what is due sooner is waited for turn by turn. */
const TIMER_MS = 2;

/**
 * Passes TCP connections on, and each chunk so much later than it came, in both directions. Every chunk has its own
 * time, and none waits for the one before to be delivered: latency grows, bandwidth stays.
 */
export class DelayProxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(target: { readonly host: string; readonly port: number }, delayMs: number) {
    this.#server = createServer({ allowHalfOpen: true }, (client) => {
      const upstream = connect({ ...target, noDelay: true, allowHalfOpen: true });
      client.setNoDelay(true);
      for (const socket of [client, upstream]) this.#keep(socket);
      link(client, upstream, delayMs);
      link(upstream, client, delayMs);
    });
  }

  /** Listens on a free port of loopback. `delayMs` is that of one direction. */
  static async before(url: URL, delayMs: number): Promise<DelayProxy> {
    const proxy = new DelayProxy({ host: url.hostname, port: Number(url.port) }, delayMs);
    proxy.#server.listen(0, "127.0.0.1");
    await once(proxy.#server, "listening");
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  #keep(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on("close", () => this.#sockets.delete(socket));
    // The other side learns of it by the close that follows.
    socket.on("error", () => socket.destroy());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await once(this.#server, "close");
  }
}

interface Chunk {
  readonly dueAt: number;
  /** Undefined: the end of what this side sends. */
  readonly data: Buffer | undefined;
}

function link(from: Socket, to: Socket, delayMs: number): void {
  const chunks: Chunk[] = [];
  let isWaiting = false;
  const take = (data: Buffer | undefined): void => {
    chunks.push({ dueAt: performance.now() + delayMs, data });
    if (!isWaiting) deliver();
  };
  const deliver = (): void => {
    const now = performance.now();
    let next = chunks[0];
    while (next !== undefined && next.dueAt <= now) {
      if (next.data === undefined) to.end();
      else if (to.writable) to.write(next.data);
      chunks.shift();
      next = chunks[0];
    }
    isWaiting = next !== undefined;
    if (next === undefined) return;
    const left = next.dueAt - now;
    if (left > TIMER_MS) setTimeout(deliver, left - TIMER_MS);
    else setImmediate(deliver);
  };
  from.on("data", take);
  from.on("end", () => take(undefined));
  from.on("close", () => {
    if (!from.readableEnded) to.destroy();
  });
}

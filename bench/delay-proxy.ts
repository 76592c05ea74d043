import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";

/** Timers have a resolution of a millisecond. Shorter delays are polled with setImmediate. */
const TIMER_MS = 2;

/**
 * A TCP proxy that delays each chunk in both directions. Chunks are delayed independently, so latency grows and bandwidth
 * does not change.
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

  /** Starts a proxy on a free loopback port. `delayMs` is the delay of each direction. */
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
    // The following close event ends the other side.
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
  /** Undefined marks the end of the stream. */
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

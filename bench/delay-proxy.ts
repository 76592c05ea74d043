import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { RespStream } from "#test/support/resp.ts";

/** Timers have a resolution of a millisecond. Shorter delays are polled with setImmediate. */
const TIMER_MS = 2;

/** Commands that write nothing. */
const READS: ReadonlySet<string> = new Set([
  ...[
    "client",
    "cluster",
    "command",
    "config",
    "exists",
    "function",
    "get",
    "hget",
    "hmget",
    "info",
    "mget",
    "ping",
  ],
  ...["readonly", "scard", "smembers", "time", "wait", "zcard", "zrange", "zscore"],
]);

/**
 * A TCP proxy that delays each chunk in both directions. Chunks are delayed independently, so latency grows and bandwidth
 * does not change.
 *
 * With `writeDelayMs`, it also delays each reply to a command that writes, as a server does that makes a write durable before
 * it replies. Later replies of the connection wait behind it, so a pipeline that writes takes that much longer.
 */
export class DelayProxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(
    target: { readonly host: string; readonly port: number },
    delayMs: number,
    writeDelayMs: number | undefined,
  ) {
    this.#server = createServer({ allowHalfOpen: true }, (client) => {
      const upstream = connect({ ...target, noDelay: true, allowHalfOpen: true });
      client.setNoDelay(true);
      for (const socket of [client, upstream]) this.#keep(socket);
      if (writeDelayMs === undefined) {
        link(client, upstream, delayMs);
        link(upstream, client, delayMs);
        return;
      }
      const writes = new WriteReplies(writeDelayMs);
      link(client, upstream, delayMs, (data) => writes.request(data));
      link(upstream, client, delayMs, (data) => writes.reply(data));
    });
  }

  /**
   * Starts a proxy on a free loopback port. `delayMs` is the delay of each direction. `writeDelayMs` is the additional delay
   * of a reply to a write; undefined: none, and the proxy does not parse the traffic.
   */
  static async before(url: URL, delayMs: number, writeDelayMs?: number): Promise<DelayProxy> {
    const proxy = new DelayProxy({ host: url.hostname, port: Number(url.port) }, delayMs, writeDelayMs);
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

interface Piece {
  readonly data: Buffer | undefined;
  readonly extraMs: number;
}

/** Pairs the commands of a connection with their replies, and tells which replies are those of writes. */
class WriteReplies {
  readonly #writeDelayMs: number;
  readonly #commands = new RespStream();
  readonly #replies = new RespStream();
  /** Whether each unanswered command writes. */
  readonly #open: boolean[] = [];

  constructor(writeDelayMs: number) {
    this.#writeDelayMs = writeDelayMs;
  }

  request(data: Buffer): Piece[] {
    this.#commands.push(data);
    for (let frame = this.#commands.next(); frame !== undefined; frame = this.#commands.next()) {
      this.#open.push(!READS.has(frame.words[0]?.toLowerCase() ?? ""));
    }
    return [{ data, extraMs: 0 }];
  }

  /** The complete replies in the data received so far: consecutive ones with the same delay in one piece. */
  reply(data: Buffer): Piece[] {
    this.#replies.push(data);
    const pieces: { buffers: Buffer[]; extraMs: number }[] = [];
    for (let frame = this.#replies.next(); frame !== undefined; frame = this.#replies.next()) {
      const extraMs = this.#open.shift() === true ? this.#writeDelayMs : 0;
      const last = pieces.at(-1);
      if (last?.extraMs === extraMs) last.buffers.push(frame.bytes);
      else pieces.push({ buffers: [frame.bytes], extraMs });
    }
    return pieces.map(({ buffers, extraMs }) => ({ data: Buffer.concat(buffers), extraMs }));
  }
}

function link(
  from: Socket,
  to: Socket,
  delayMs: number,
  split: (data: Buffer) => Piece[] = (data) => [{ data, extraMs: 0 }],
): void {
  const chunks: Chunk[] = [];
  let isWaiting = false;
  const take = (pieces: readonly Piece[]): void => {
    const now = performance.now();
    for (const { data, extraMs } of pieces) chunks.push({ dueAt: now + delayMs + extraMs, data });
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
  from.on("data", (data: Buffer) => take(split(data)));
  from.on("end", () => take([{ data: undefined, extraMs: 0 }]));
  from.on("close", () => {
    if (!from.readableEnded) to.destroy();
  });
}

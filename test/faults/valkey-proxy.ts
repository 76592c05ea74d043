/** A TCP proxy for a Valkey server that recognizes the steps of a dispatch and can stop the traffic at each. */

import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { stepOf, type Timing, type ValkeyStep } from "#test/faults/steps.ts";
import { RespStream } from "#test/support/resp.ts";

/** Decides where the traffic stops. */
export interface Gate {
  /** Whether the traffic stops at this point. */
  stopsAt(step: ValkeyStep, timing: Timing): boolean;
  /** Called at such a point. `pass` lets the traffic continue; `drop` closes the connection. */
  pass(): Promise<"pass" | "drop">;
}

/** After these commands a connection no longer has one reply per command. */
const STREAMING = new Set(["psync", "sync", "subscribe", "ssubscribe", "psubscribe", "monitor"]);

export class ValkeyProxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  /** Accepts connections, but forwards and answers nothing. */
  isSilent = false;

  private constructor(port: number, gate: Gate) {
    this.#server = createServer((client) => {
      this.#keep(client);
      const upstream = this.#keep(connect(port, "127.0.0.1"));
      new Link(client, upstream, gate, () => this.isSilent).open();
    });
  }

  static async before(port: number, gate: Gate): Promise<ValkeyProxy> {
    const proxy = new ValkeyProxy(port, gate);
    proxy.#server.listen(0, "127.0.0.1");
    await once(proxy.#server, "listening");
    return proxy;
  }

  get port(): number {
    const address = this.#server.address();
    return isAddressInfo(address) ? address.port : Number.NaN;
  }

  get url(): URL {
    return new URL(`redis://127.0.0.1:${this.port}`);
  }

  /** Closes all open connections. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cut();
    this.#server.close();
    await once(this.#server, "close");
  }

  #keep(socket: Socket): Socket {
    socket.setNoDelay(true);
    this.#sockets.add(socket);
    socket.on("close", () => this.#sockets.delete(socket));
    socket.on("error", () => socket.destroy());
    return socket;
  }
}

function isAddressInfo(address: AddressInfo | string | null): address is AddressInfo {
  return typeof address === "object" && address !== null;
}

/** One connection through the proxy. */
class Link {
  readonly #client: Socket;
  readonly #upstream: Socket;
  readonly #gate: Gate;
  readonly #isSilent: () => boolean;
  readonly #commands = new RespStream();
  readonly #replies = new RespStream();
  /** The steps of the unanswered commands. */
  readonly #open: (ValkeyStep | undefined)[] = [];
  #last: ValkeyStep | undefined;
  #isStreaming = false;
  #onIdle: () => void = () => undefined;
  #sending: Promise<void> = Promise.resolve();
  #answering: Promise<void> = Promise.resolve();

  constructor(client: Socket, upstream: Socket, gate: Gate, isSilent: () => boolean) {
    this.#client = client;
    this.#upstream = upstream;
    this.#gate = gate;
    this.#isSilent = isSilent;
  }

  open(): void {
    this.#client.on("data", (data) => {
      this.#commands.push(data);
      this.#sending = this.#sending.then(() => this.#send());
    });
    this.#upstream.on("data", (data) => {
      this.#replies.push(data);
      this.#answering = this.#answering.then(() => this.#answer());
    });
    this.#client.on("close", () => this.#upstream.destroy());
    this.#upstream.on("close", () => this.#client.destroy());
  }

  async #send(): Promise<void> {
    for (;;) {
      const frame = this.#isStreaming || this.#isSilent() ? undefined : this.#commands.next();
      if (frame === undefined) break;
      const step = stepOf(frame.words);
      const timing = step === this.#last ? "during" : "before";
      if (step !== undefined && this.#gate.stopsAt(step, timing)) {
        // `during` means that the commands before were executed: wait for their replies.
        if (timing === "during") await this.#idle();
        if ((await this.#gate.pass()) === "drop") return this.#drop();
      }
      this.#last = step;
      if (STREAMING.has(frame.words[0]?.toLowerCase() ?? "")) this.#isStreaming = true;
      else this.#open.push(step);
      this.#upstream.write(frame.bytes);
    }
    if (this.#isStreaming) this.#upstream.write(this.#commands.rest());
  }

  async #answer(): Promise<void> {
    while (!this.#isSilent() && (!this.#isStreaming || this.#open.length > 0)) {
      const frame = this.#replies.next();
      if (frame === undefined) break;
      const step = this.#open.shift();
      const isLast = this.#open[0] !== step;
      if (step !== undefined && isLast && this.#gate.stopsAt(step, "after")) {
        if ((await this.#gate.pass()) === "drop") return this.#drop();
      }
      this.#client.write(frame.bytes);
      if (this.#open.length === 0) this.#onIdle();
    }
    if (this.#isStreaming && this.#open.length === 0) this.#client.write(this.#replies.rest());
  }

  #idle(): Promise<void> {
    if (this.#open.length === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#onIdle = resolve;
    });
  }

  #drop(): void {
    this.#client.destroy();
    this.#upstream.destroy();
  }
}

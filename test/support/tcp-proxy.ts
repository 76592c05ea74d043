/** A TCP proxy on loopback that simulates network failures: silence, refused connections and lost connections. */

import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";

export type ProxyMode =
  /** Forward all data. */
  | "pass"
  /** Accept connections, but forward no data. */
  | "silent"
  /** Close new connections at once. */
  | "refuse";

export class TcpProxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  /** Connections that stay open, and whose data are lost. */
  readonly #dropped = new WeakSet<Socket>();
  #onDroppedData: () => void = () => undefined;
  #mode: ProxyMode = "pass";
  /** The number of connections accepted so far. */
  connections = 0;

  private constructor(target: { readonly host: string; readonly port: number }) {
    this.#server = createServer((client) => {
      this.connections += 1;
      this.#keep(client);
      if (this.#mode === "refuse") client.destroy();
      if (this.#mode !== "pass") return;
      const upstream = this.#keep(connect(target.port, target.host));
      this.#link(client, upstream);
      this.#link(upstream, client);
    });
  }

  static async before(url: URL): Promise<TcpProxy> {
    const proxy = new TcpProxy({ host: url.hostname, port: Number(url.port) });
    proxy.#server.listen(0, "127.0.0.1");
    await once(proxy.#server, "listening");
    return proxy;
  }

  get url(): URL {
    return new URL(`redis://127.0.0.1:${(this.#server.address() as AddressInfo).port}`);
  }

  set mode(mode: ProxyMode) {
    this.#mode = mode;
  }

  /** Closes all open connections. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  /**
   * Loses all data of the connections that are open now, and leaves them open. New ones work. Resolves when the first
   * data are lost.
   */
  drop(): Promise<void> {
    for (const socket of this.#sockets) this.#dropped.add(socket);
    return new Promise((resolve) => {
      this.#onDroppedData = resolve;
    });
  }

  #keep(socket: Socket): Socket {
    this.#sockets.add(socket);
    socket.on("close", () => this.#sockets.delete(socket));
    // The close event that follows also closes the other side.
    socket.on("error", () => socket.destroy());
    return socket;
  }

  #link(from: Socket, to: Socket): void {
    from.on("data", (data) => {
      if (this.#dropped.has(from)) this.#onDroppedData();
      else if (this.#mode === "pass") to.write(data);
    });
    from.on("close", () => to.destroy());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cut();
    this.#server.close();
    await once(this.#server, "close");
  }
}

/** A TCP proxy on loopback that rewrites what a server sends. */

import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";

export class RewritingProxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(target: URL, rewrite: (text: string) => string) {
    this.#server = createServer((client) => {
      const upstream = connect(Number(target.port), target.hostname);
      for (const [from, to] of [
        [client, upstream],
        [upstream, client],
      ] as const) {
        this.#sockets.add(from);
        from.on("close", () => to.destroy());
        from.on("error", () => from.destroy());
      }
      client.on("data", (data) => upstream.write(data));
      upstream.on("data", (data) => client.write(rewrite(data.toString("latin1")), "latin1"));
    });
  }

  /** `rewrite` gets each chunk as Latin-1 text, and must keep its length. */
  static async before(target: URL, rewrite: (text: string) => string): Promise<RewritingProxy> {
    const proxy = new RewritingProxy(target, rewrite);
    proxy.#server.listen(0, "127.0.0.1");
    await once(proxy.#server, "listening");
    return proxy;
  }

  get url(): URL {
    return new URL(`redis://127.0.0.1:${(this.#server.address() as AddressInfo).port}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await once(this.#server, "close");
  }
}

import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { buffer } from "node:stream/consumers";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { DelayProxy } from "#bench/delay-proxy.ts";

/** Replies to each byte with the next greater one, so that replies differ from requests. */
function answer(data: Buffer): Buffer {
  return Buffer.from(data.map((byte) => (byte + 1) % 256));
}

describe("the delay proxy", () => {
  let server: Server;
  let accepted: Socket[];

  beforeEach(async () => {
    accepted = [];
    server = createServer({ allowHalfOpen: true }, (socket) => {
      accepted.push(socket);
      socket.on("data", (data) => socket.write(answer(data)));
      socket.on("end", () => socket.end());
      socket.on("error", () => socket.destroy());
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
  });
  afterEach(async () => {
    for (const socket of accepted) socket.destroy();
    server.close();
    await once(server, "close");
  });

  const proxyOf = (delayMs: number) =>
    DelayProxy.before(new URL(`redis://127.0.0.1:${(server.address() as AddressInfo).port}`), delayMs);
  const connectTo = (proxy: DelayProxy) =>
    connect({ host: "127.0.0.1", port: proxy.port, allowHalfOpen: true });

  it.each([0, 0.33, 5])(
    "forwards all data in order, in both directions, with a delay of %d ms",
    async (delayMs) => {
      await using proxy = await proxyOf(delayMs);
      const client = connectTo(proxy);
      const sent = Buffer.from(Uint8Array.from({ length: 300_000 }, (_, index) => (index * 31) % 251));
      const received = buffer(client);
      for (let start = 0; start < sent.length; start += 7_001)
        client.write(sent.subarray(start, start + 7_001));
      client.end();
      expect((await received).equals(answer(sent))).toBe(true);
    },
  );

  it("keeps connections separate", async () => {
    await using proxy = await proxyOf(1);
    const answers = await Promise.all(
      ["one", "two", "three"].map(async (text) => {
        const client = connectTo(proxy);
        const received = buffer(client);
        client.end(text);
        return (await received).toString("latin1");
      }),
    );
    expect(answers).toEqual(
      ["one", "two", "three"].map((text) => answer(Buffer.from(text)).toString("latin1")),
    );
  });

  it("delivers nothing early", async () => {
    await using proxy = await proxyOf(20);
    const client = connectTo(proxy);
    await once(client, "connect");
    const begun = performance.now();
    client.write("a");
    await once(client, "data");
    // Both directions. A busy machine may be late, but nothing may arrive early.
    expect(performance.now() - begun).toBeGreaterThanOrEqual(40);
    client.destroy();
  });

  it("delays the reply to a write and the replies behind it, and no others", async () => {
    const valkey = createServer((socket) => {
      socket.on("data", (data) => socket.write("+OK\r\n".repeat(String(data).split("*1").length - 1)));
    }).listen(0, "127.0.0.1");
    await once(valkey, "listening");
    const delayMs = 200;
    {
      const url = new URL(`redis://127.0.0.1:${(valkey.address() as AddressInfo).port}`);
      await using proxy = await DelayProxy.before(url, 0, delayMs);
      const client = connectTo(proxy);
      await once(client, "connect");
      const begun = performance.now();
      client.write(["hget", "FCALL", "get"].map((name) => `*1\r\n$${name.length}\r\n${name}\r\n`).join(""));
      const [first] = await once(client, "data");
      expect(String(first)).toBe("+OK\r\n");
      let others = "";
      while (others.length < 10) {
        const [data] = await once(client, "data");
        others += String(data);
        expect(performance.now() - begun).toBeGreaterThanOrEqual(delayMs - 1);
      }
      expect(others).toBe("+OK\r\n+OK\r\n");
      client.destroy();
    }
    valkey.close();
  });

  it("forwards the end of a connection, and closes all connections when it ends", async () => {
    const proxy = await proxyOf(1);
    const client = connectTo(proxy);
    client.write("a");
    await once(client, "data");
    const closed = once(client, "close");
    accepted[0]?.destroy();
    client.on("error", () => client.destroy());
    client.on("end", () => client.end());
    await closed;
    const other = connectTo(proxy);
    other.write("a");
    await once(other, "data");
    const gone = once(other, "close");
    other.on("error", () => other.destroy());
    other.on("end", () => other.end());
    await proxy[Symbol.asyncDispose]();
    await gone;
  });
});

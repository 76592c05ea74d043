/** Checks each assumption that `shared/valkey/pipeline.ts` makes about the internals of iovalkey. */

import { once } from "node:events";
import { Socket } from "node:net";
import { Redis, type RedisOptions, ReplyError } from "iovalkey";
import { afterEach, describe, expect, it } from "vitest";
import type { CommandSender } from "#shared/valkey/pipeline.ts";
import { TcpProxy } from "#test/support/tcp-proxy.ts";
import { DEPLOYMENTS, type Deployment } from "#test/support/valkey.ts";

/** The message of a failed expectation: which assumption an upgrade of iovalkey has broken. */
function broken(assumption: string): string {
  return `iovalkey breaks an assumption of shared/valkey/pipeline.ts: ${assumption}`;
}

type Settled = readonly ["resolved" | "rejected", position: number, value: unknown];

/** A pipeline of minimal commands. It records every interaction with iovalkey. */
class RecordedPipeline {
  readonly settled: Settled[] = [];
  readonly sockets: object[] = [];
  /** The number of `write` calls. */
  writes = 0;
  readonly #words: readonly (readonly string[])[];
  readonly #done = Promise.withResolvers<void>();

  constructor(words: readonly (readonly string[])[]) {
    this.#words = words;
  }

  sendTo(sender: CommandSender): this {
    const stream = {
      isPipeline: true,
      destination: { redis: sender },
      write: (): void => {
        this.writes += 1;
        if (this.writes === this.#words.length) sender.stream.write(this.#encode());
      },
    };
    for (const [pipelineIndex, [name = ""]] of this.#words.entries()) {
      const settle = (how: Settled[0], value: unknown): void => {
        this.settled.push([how, pipelineIndex, value]);
        if (this.settled.length === this.#words.length) this.#done.resolve();
      };
      const command = {
        name,
        pipelineIndex,
        inTransaction: false,
        toWritable: (socket: object): string => {
          this.sockets.push(socket);
          return "";
        },
        resolve: (reply: unknown): void => settle("resolved", reply),
        reject: (error: Error): void => settle("rejected", error),
      };
      sender.sendCommand(command, stream);
    }
    return this;
  }

  /** Waits until every command is settled. Fails with the assumption if that takes longer than two seconds. */
  async done(assumption: string): Promise<readonly Settled[]> {
    const timeout = Promise.withResolvers<never>();
    const timer = setTimeout(() => timeout.reject(new Error(broken(assumption))), 2_000);
    try {
      await Promise.race([this.#done.promise, timeout.promise]);
    } finally {
      clearTimeout(timer);
    }
    return this.settled;
  }

  #encode(): Buffer {
    const commands = this.#words.map(
      (words) => `*${words.length}\r\n${words.map((word) => `$${word.length}\r\n${word}\r\n`).join("")}`,
    );
    return Buffer.from(commands.join(""));
  }
}

const OPTIONS: RedisOptions = { maxRetriesPerRequest: 0, retryStrategy: () => null };

function standalone(): Deployment {
  const [deployment] = DEPLOYMENTS;
  if (deployment === undefined) throw new Error("no standalone deployment");
  return deployment;
}

const ECHOES = [
  ["echo", "first"],
  ["echo", "second"],
  ["echo", "third"],
];
const EACH_REJECTED = ECHOES.map((_, index) => ["rejected", index, expect.any(Error)]);

describe("iovalkey's sendCommand", () => {
  let client: Redis;
  afterEach(() => client.disconnect());

  function open(): Redis {
    const { hostname: host, port } = standalone().address.url;
    client = new Redis({ ...OPTIONS, host, port: Number(port) });
    return client;
  }

  it("writes each command of a connected client exactly once, before it returns", async () => {
    await once(open(), "ready");
    await new RecordedPipeline(ECHOES).sendTo(client).done("it settles every command");
    const pipeline = new RecordedPipeline(ECHOES).sendTo(client);
    expect(pipeline.writes, broken("it calls stream.write once per command")).toBe(ECHOES.length);
    const socket = client.stream;
    expect(socket, broken("the stream of a client is its socket")).toBeInstanceOf(Socket);
    expect(new Set(pipeline.sockets), broken("toWritable receives the socket")).toEqual(new Set([socket]));
    await pipeline.done("it settles every command");
  });

  it("settles commands in order: Buffers are resolved, error replies are rejected", async () => {
    await once(open(), "ready");
    const pipeline = new RecordedPipeline([
      ["echo", "text"],
      ["set", "{fp:7}:test:internals", "1"],
      ["smembers", "{fp:7}:test:internals"],
      ["mget", "{fp:7}:test:internals", "{fp:7}:test:missing"],
      ["del", "{fp:7}:test:internals"],
    ]);
    const settled = await pipeline.sendTo(client).done("it settles every command");
    expect(settled, broken("replies settle the commands in order, as Buffers or as an error")).toEqual([
      ["resolved", 0, Buffer.from("text")],
      ["resolved", 1, Buffer.from("OK")],
      ["rejected", 2, expect.objectContaining({ message: expect.stringMatching(/^WRONGTYPE/) })],
      ["resolved", 3, [Buffer.from("1"), null]],
      ["resolved", 4, 1],
    ]);
    expect(settled[2]?.[2], broken("reject receives a ReplyError for an error reply")).toBeInstanceOf(
      ReplyError,
    );
  });

  it("keeps the commands of a client that is still connecting, and writes them all later", async () => {
    open();
    const pipeline = new RecordedPipeline(ECHOES).sendTo(client);
    expect(pipeline.writes, broken("it writes no command before the client is connected")).toBe(0);
    const settled = await pipeline.done("it settles every command");
    expect(pipeline.writes, broken("it calls stream.write once per command")).toBe(ECHOES.length);
    expect(settled, broken("queued commands are sent in order")).toEqual(
      ECHOES.map(([, text = ""], index) => ["resolved", index, Buffer.from(text)]),
    );
  });

  it("settles commands in flight when the client is disconnected, and rejects later ones", async () => {
    await once(open(), "ready");
    await new RecordedPipeline(ECHOES).sendTo(client).done("it settles every command");
    const inFlight = new RecordedPipeline(ECHOES).sendTo(client);
    expect(inFlight.writes, broken("it calls stream.write once per command")).toBe(ECHOES.length);
    const ended = once(client, "end");
    client.disconnect();
    // Replies that were already sent may still arrive.
    await inFlight.done("disconnect settles commands in flight");
    await ended;
    const afterwards = new RecordedPipeline(ECHOES).sendTo(client);
    expect(await afterwards.done("a disconnected client rejects commands")).toEqual(EACH_REJECTED);
    expect(afterwards.writes, broken("a disconnected client writes no command")).toBe(0);
  });
});

describe("iovalkey's sendCommand (lost connection)", () => {
  it("rejects every command in flight", async () => {
    await using proxy = await TcpProxy.before(standalone().address.url);
    const client = new Redis({ ...OPTIONS, host: proxy.url.hostname, port: Number(proxy.url.port) });
    client.on("error", () => undefined);
    await once(client, "ready");
    proxy.mode = "silent";
    const pipeline = new RecordedPipeline(ECHOES).sendTo(client);
    proxy.cut();
    expect(await pipeline.done("a lost connection rejects commands in flight")).toEqual(EACH_REJECTED);
    client.disconnect();
  });
});

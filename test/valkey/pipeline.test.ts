import { afterAll, describe, expect, it } from "vitest";
import { command } from "#shared/contract/command.ts";
import type { Partition } from "#shared/contract/ids.ts";
import { DEPLOYMENTS, run } from "#test/support/valkey.ts";

const P = 7 as Partition;
const key = (name: string): string => `{fp:7}:test:pipeline:${name}`;

describe.each(DEPLOYMENTS)("pipelined ($name)", ({ connect }) => {
  const valkey = connect();
  afterAll(() => valkey.close());

  it.each([
    ["ASCII", "text", 4],
    ["an empty string", "", 0],
    ["a line break", "a\r\n$1\r\nb", 8],
    ["more bytes than characters", "naïve – 執行 😀", 22],
    ["a number", 1_700_000_000_000, 13],
    ["bytes that are not text", Buffer.from([0, 255, 13, 10]), 4],
  ])("sends %s unchanged, between other commands", async (_, value, bytes) => {
    const results = await valkey.pipelined([
      command(P, "set", key("before"), "1"),
      command(P, "set", key("value"), value),
      command(P, "strlen", key("value")),
      command(P, "mget", key("before"), key("value"), key("missing")),
      command(P, "del", key("before"), key("value")),
    ]);
    const read = Buffer.isBuffer(value) ? value.toString() : String(value);
    expect(results.map((result) => result.ok && result.value)).toEqual([
      "OK",
      "OK",
      bytes,
      ["1", read, null],
      2,
    ]);
  });

  it("returns one result per command, in the commands' order, across partitions", async () => {
    const commands = Array.from({ length: 1_000 }, (_, number) =>
      number === 500
        ? command(P, "hget", key("list"), "field")
        : command((number % 50) as Partition, "echo", String(number)),
    );
    await run(valkey, P, "rpush", key("list"), "1");
    const results = await valkey.pipelined(commands);
    await run(valkey, P, "del", key("list"));
    expect(results).toHaveLength(1_000);
    for (const [number, result] of results.entries()) {
      if (number === 500) expect(result).toMatchObject({ ok: false, error: { name: "ValkeyError" } });
      else expect(result).toEqual({ ok: true, value: String(number) });
    }
    expect(valkey.isBroken).toBe(false);
  });

  it("returns no results without commands", async () => {
    expect(await valkey.pipelined([])).toEqual([]);
  });

  it("can be sent before the client is connected, and fails after it is closed", async () => {
    const fresh = connect();
    const all = [fresh.pipelined([command(P, "echo", "1")]), fresh.pipelined([command(P, "echo", "2")])];
    expect((await Promise.all(all)).flat()).toEqual([
      { ok: true, value: "1" },
      { ok: true, value: "2" },
    ]);
    fresh.close();
    const [late] = await fresh.pipelined([command(P, "echo", "3")]);
    expect(late).toMatchObject({ ok: false, error: { message: expect.stringMatching(/^Valkey at /) } });
  });
});

import { Redis } from "iovalkey";
import { describe, expect, it } from "vitest";
import { startValkey } from "#local/valkey-server.ts";
import { Breakpoint } from "#test/faults/breakpoint.ts";
import type { Timing, ValkeyStep } from "#test/faults/steps.ts";
import { type Gate, ValkeyProxy } from "#test/faults/valkey-proxy.ts";

/** Two commands of one step in one pipeline. */
const MARKS = [
  ["set", "1:cascade", "x"],
  ["set", "2:cascade", "x"],
];

async function markThrough(timing: Timing, decision: "pass" | "drop") {
  await using server = await startValkey();
  const seen: string[] = [];
  const breakpoint = new Breakpoint([{ step: "mark", timing }], async () => {
    const direct = new Redis({ host: server.url.hostname, port: server.port });
    seen.push(...(await direct.keys("*")).sort());
    direct.disconnect();
    return decision;
  });
  const gate: Gate = {
    stopsAt: (step: ValkeyStep, at: Timing) => breakpoint.stopsAt(step, at),
    pass: () => breakpoint.hit(),
  };
  await using proxy = await ValkeyProxy.before(server.port, gate);
  const client = new Redis({
    host: proxy.url.hostname,
    port: proxy.port,
    retryStrategy: () => null,
    maxRetriesPerRequest: 0,
  });
  client.on("error", () => undefined);
  const results = (await client.pipeline(MARKS).exec()) ?? [];
  client.disconnect();
  const direct = new Redis({ host: server.url.hostname, port: server.port });
  const kept = (await direct.keys("*")).sort();
  direct.disconnect();
  return { seen, kept, errors: results.filter(([error]) => error !== null).length, hitAt: breakpoint.hitAt };
}

describe("the Valkey proxy", () => {
  it.each<[Timing, string[]]>([
    ["before", []],
    ["during", ["1:cascade"]],
    ["after", ["1:cascade", "2:cascade"]],
  ])(
    "drops the connection %s a step, after the server executed exactly the commands before",
    async (timing, done) => {
      const { seen, kept, errors, hitAt } = await markThrough(timing, "drop");
      expect(hitAt).toEqual({ step: "mark", timing });
      expect(seen).toEqual(done);
      expect(kept).toEqual(done);
      expect(errors).toBeGreaterThanOrEqual(1);
    },
  );

  it.each<Timing>(["before", "during", "after"])("continues after a stop %s a step", async (timing) => {
    const { kept, errors, hitAt } = await markThrough(timing, "pass");
    expect(hitAt).toEqual({ step: "mark", timing });
    expect(kept).toEqual(["1:cascade", "2:cascade"]);
    expect(errors).toBe(0);
  });
});

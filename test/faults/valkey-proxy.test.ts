import { Redis } from "iovalkey";
import { describe, expect, it } from "vitest";
import { startValkey } from "#local/valkey-server.ts";
import type { Moment, ValkeyStep } from "#test/faults/steps.ts";
import { Trap } from "#test/faults/trap.ts";
import { type Gate, ValkeyProxy } from "#test/faults/valkey-proxy.ts";

/** Two marks in one pipeline: commands that belong to a step. */
const MARKS = [
  ["set", "1:cascade", "x"],
  ["set", "2:cascade", "x"],
];

async function markThrough(moment: Moment, decision: "pass" | "drop") {
  await using server = await startValkey();
  const seen: string[] = [];
  const trap = new Trap([{ step: "mark", moment }], async () => {
    const direct = new Redis({ host: server.url.hostname, port: server.port });
    seen.push(...(await direct.keys("*")).sort());
    direct.disconnect();
    return decision;
  });
  const gate: Gate = {
    guards: (step: ValkeyStep, at: Moment) => trap.guards(step, at),
    pass: () => trap.spring(),
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
  return { seen, kept, errors: results.filter(([error]) => error !== null).length, sprung: trap.sprung };
}

describe("the proxy before Valkey", () => {
  it.each<[Moment, string[]]>([
    ["before", []],
    ["amid", ["1:cascade"]],
    ["after", ["1:cascade", "2:cascade"]],
  ])("stops %s a step, when the server has done just what came before", async (moment, done) => {
    const { seen, kept, errors, sprung } = await markThrough(moment, "drop");
    expect(sprung).toEqual({ step: "mark", moment });
    expect(seen).toEqual(done);
    expect(kept).toEqual(done);
    expect(errors).toBeGreaterThanOrEqual(1);
  });

  it.each<Moment>(["before", "amid", "after"])("goes on after it stopped %s a step", async (moment) => {
    const { kept, errors, sprung } = await markThrough(moment, "pass");
    expect(sprung).toEqual({ step: "mark", moment });
    expect(kept).toEqual(["1:cascade", "2:cascade"]);
    expect(errors).toBe(0);
  });
});

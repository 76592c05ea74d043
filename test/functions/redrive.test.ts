import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { RedriveReport } from "#shared/redrive/report.ts";
import { DeadLetterBench } from "#test/support/dead-letters.ts";
import { startRedriveFunction } from "#test/support/redrive-function.ts";

describe("the redrive function, as it is built", () => {
  let bench: DeadLetterBench;
  beforeEach(async () => {
    bench = await DeadLetterBench.start();
  });
  afterEach(() => bench[Symbol.asyncDispose]());

  it("replays by filter and reports", async () => {
    await bench.put({ code: "protocol_error" }, { code: "protocol_error", replays: 1 }, { code: "other" });
    await using fn = startRedriveFunction(bench, { environment: { MAX_REPLAYS: "1" } });
    expect(await fn.invoke({ error_code: "protocol_error", rate: 100 })).toEqual({
      seen: 3,
      matching: 1,
      replayed: 1,
      failed: 0,
      kept: 1,
      over_limit: 1,
      dry_run: false,
      method: "receive",
      done: true,
      ended: "complete",
      over_limit_ids: [expect.any(String)],
      notes: [],
    });
    expect(await bench.visible()).toBe(2);
    expect(await bench.drain()).toHaveLength(1);
  });

  it("ends a slice before its deadline, and goes on with its continuation", async () => {
    await bench.put(...Array(16).fill({}));
    // Half of so short a time is kept back: two seconds of work.
    await using fn = startRedriveFunction(bench, { timeoutMs: 4_000 });
    const event = { all: true, rate: 4 };
    let report = (await fn.invoke(event)) as RedriveReport;
    expect(report).toMatchObject({ done: false, ended: "slice" });
    expect(report.replayed).toBeGreaterThan(0);
    expect(report.replayed).toBeLessThan(16);
    while (!report.done) {
      report = (await fn.invoke({ ...event, continuation: report.continuation })) as RedriveReport;
    }
    expect(report).toMatchObject({ seen: 16, replayed: 16, ended: "complete" });
    expect(await bench.drain()).toHaveLength(16);
  });

  it("refuses an event that cannot be meant, and does nothing", async () => {
    await bench.put({});
    await using fn = startRedriveFunction(bench);
    await expect(fn.invoke({})).rejects.toThrow(/InvalidRequestError.*nothing says which messages/);
    await expect(fn.invoke({ all: true, rate: "fast" })).rejects.toThrow(/"rate" takes a number/);
    expect(await bench.visible()).toBe(1);
  });

  it("does not start with a faulty environment, and names every fault", async () => {
    await using fn = startRedriveFunction(bench, {
      environment: { DEAD_LETTER_QUEUE_URL: "", MAX_REPLAYS: "many" },
    });
    const failure = fn.invoke({ all: true });
    await expect(failure).rejects.toThrow(/DEAD_LETTER_QUEUE_URL is not set/);
    await expect(failure).rejects.toThrow(/MAX_REPLAYS is "many"/);
  });
});

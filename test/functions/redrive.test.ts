import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { RedriveReport } from "#shared/redrive/report.ts";
import { DeadLetterBench } from "#test/support/dead-letters.ts";
import { startRedriveFunction } from "#test/support/redrive-function.ts";

describe("the built redrive function", () => {
  let bench: DeadLetterBench;
  beforeEach(async () => {
    bench = await DeadLetterBench.start();
  });
  afterEach(() => bench[Symbol.asyncDispose]());

  it("replays the selected messages and returns its report", async () => {
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

  it("ends a slice before its deadline, and resumes with its continuation", async () => {
    await bench.put(...Array(16).fill({}));
    // Of such a short timeout, half is reserved: two seconds remain.
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

  it("rejects an invalid event and replays nothing", async () => {
    await bench.put({});
    await using fn = startRedriveFunction(bench);
    await expect(fn.invoke({})).rejects.toThrow(/InvalidRequestError.*no messages selected/);
    await expect(fn.invoke({ all: true, rate: "fast" })).rejects.toThrow(/"rate" must be a number/);
    expect(await bench.visible()).toBe(1);
  });

  it("fails on an invalid environment, and reports every error", async () => {
    await using fn = startRedriveFunction(bench, {
      environment: { DEAD_LETTER_QUEUE_URL: "", MAX_REPLAYS: "many" },
    });
    const failure = fn.invoke({ all: true });
    await expect(failure).rejects.toThrow(/DEAD_LETTER_QUEUE_URL is not set/);
    await expect(failure).rejects.toThrow(/MAX_REPLAYS is "many"/);
  });
});

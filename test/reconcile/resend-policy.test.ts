import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { simulate } from "#bench/overload-simulation.ts";
import {
  allowance,
  delayAfter,
  formatMark,
  isDue,
  nextMark,
  parseMark,
  type ResendMark,
  ResendPlan,
} from "#shared/reconcile/resend-policy.ts";

const MINUTE_MS = 60_000;
const NOW = 1_800_000_000_000;
const GRACE_MS = 30_000;

const candidate = (endedAtMs: number, mark?: ResendMark) => ({ end: String(endedAtMs), endedAtMs, mark });

describe("the mark of an upstream", () => {
  it("delays the next send by 1, 2, 4 … 60 minutes", () => {
    expect([1, 2, 3, 4, 5, 6, 7, 8, 100].map((sends) => delayAfter(sends) / MINUTE_MS)).toEqual([
      1, 2, 4, 8, 16, 32, 60, 60, 60,
    ]);
    const upstream = candidate(NOW);
    const first = nextMark(upstream, NOW - MINUTE_MS);
    const mark = nextMark({ ...upstream, mark: first }, NOW);
    expect(mark.sends).toBe(2);
    expect(isDue({ ...upstream, mark }, NOW + 2 * MINUTE_MS - 1)).toBe(false);
    expect(isDue({ ...upstream, mark }, NOW + 2 * MINUTE_MS)).toBe(true);
  });

  it("does not count after a replay, or if it comes from the future", () => {
    const mark = { end: String(NOW), sends: 5, sentAtMs: NOW };
    expect(isDue(candidate(NOW, mark), NOW)).toBe(false);
    expect(isDue(candidate(NOW + 1, mark), NOW)).toBe(true);
    expect(nextMark(candidate(NOW + 1, mark), NOW).sends).toBe(1);
    expect(isDue(candidate(NOW, { ...mark, sentAtMs: NOW + 3_600_000 }), NOW)).toBe(true);
  });

  it("is parsed as it was formatted, and anything else is no mark", () => {
    const ends = fc.oneof(fc.constant(""), fc.nat().map(String));
    fc.assert(
      fc.property(ends, fc.nat(100_000), fc.nat(), (end, sends, sentAtMs) => {
        expect(parseMark(formatMark({ end, sends, sentAtMs }))).toEqual({ end, sends, sentAtMs });
      }),
    );
    for (const text of ["", "|", "1|2", "a|1|2", "1|2|3|4", "1|-2|3"])
      expect(parseMark(text)).toBeUndefined();
  });
});

describe("the allowance of a run", () => {
  it("is at least 1, and shrinks with the backlog", () => {
    fc.assert(
      fc.property(
        fc.nat(100_000),
        fc.nat(1_000),
        fc.nat(1_000),
        fc.nat(1_000),
        fc.nat(10_000),
        (queued, overdue, fresh, recent, more) => {
          const counts = { overdue, fresh, recent };
          expect(allowance({ queued, ...counts })).toBeGreaterThanOrEqual(1);
          expect(allowance({ queued: queued + more, ...counts })).toBeLessThanOrEqual(
            allowance({ queued, ...counts }),
          );
        },
      ),
    );
  });

  it.each([
    ["all that are certainly not in the queue", { queued: 300, overdue: 1_000, fresh: 0, recent: 0 }, 700],
    ["up to ten without a backlog", { queued: 3, overdue: 0, fresh: 5, recent: 0 }, 10],
    ["a thirtieth of a minute's completions", { queued: 600, overdue: 0, fresh: 300, recent: 600 }, 20],
    ["less behind a longer backlog", { queued: 6_000, overdue: 6_000, fresh: 600, recent: 600 }, 2],
    ["one behind a very long backlog", { queued: 60_000, overdue: 60_000, fresh: 60, recent: 60 }, 1],
    [
      "ten and what is recent, without counts, if dispatch is not behind",
      { queued: undefined, overdue: 900, fresh: 0, recent: 9 },
      19,
    ],
    [
      "few, without counts, if dispatch is behind",
      { queued: undefined, overdue: 9, fresh: 60, recent: 60 },
      2,
    ],
  ])("is %s", (_, counts, expected) => {
    expect(allowance(counts)).toBe(expected);
  });
});

describe("the plan of a run", () => {
  it("prefers completions with the fewest sends, then the oldest", () => {
    const plan = new ResendPlan<ReturnType<typeof candidate>>(GRACE_MS);
    const sent = (endedAtMs: number): ResendMark => ({ end: String(endedAtMs), sends: 1, sentAtMs: 0 });
    const oldest = NOW - 40 * MINUTE_MS;
    for (const one of [
      candidate(oldest, sent(oldest)),
      candidate(NOW - 9 * MINUTE_MS),
      candidate(NOW - 20 * MINUTE_MS),
    ]) {
      plan.add(one, NOW);
    }
    expect(plan.dueCount).toBe(3);
    expect(plan.select(0).map(({ endedAtMs }) => (NOW - endedAtMs) / MINUTE_MS)).toEqual([20, 9, 40]);
    expect(plan.select(1_000).map(({ endedAtMs }) => (NOW - endedAtMs) / MINUTE_MS)).toEqual([20]);
  });
});

describe("an outage of dispatch, simulated", () => {
  const outage = { load: 4.18, capacity: 3, outageMinutes: 5, maxMinutes: 20, seed: 11 };

  it("overloads a reconciler that sends all again, and not this one", () => {
    const without = simulate({ ...outage, policy: "none" });
    expect(without.queuedAtOutageEnd).toBe(1_254);
    expect(simulate({ ...outage, policy: "always" })).toMatchObject({ recoveryMinutes: Infinity });
    for (const policy of ["plan", "plan_without_counts"] as const) {
      const course = simulate({ ...outage, policy, oneLostOf: 50 });
      expect(course.recoveryMinutes).toBeLessThan(1.5 * without.recoveryMinutes);
      expect(course.lost).toBeGreaterThan(50);
      expect(course.notFound).toBe(0);
    }
  });

  it("ends as fast if the workers run dry meanwhile, with and without the queue's counts", () => {
    const dry = { ...outage, capacity: 1.2, outageMinutes: 60, maxMinutes: 120, loadStopsAfterMinutes: 20 };
    const without = simulate({ ...dry, policy: "none" });
    for (const policy of ["plan", "plan_without_counts"] as const) {
      const { recoveryMinutes, notFound } = simulate({ ...dry, policy, oneLostOf: 500 });
      expect(recoveryMinutes).toBeLessThan(1.5 * without.recoveryMinutes);
      expect(notFound).toBe(0);
    }
  });
});

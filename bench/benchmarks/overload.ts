import { type Benchmark, expectEqual } from "#bench/benchmark.ts";
import { type Policy, type Scenario, simulate } from "#bench/overload-simulation.ts";
import { atLeast, atMost, type Row } from "#bench/report.ts";

/** With this load and seed, 1,254 completions wait after five minutes. */
const LOAD = 4.18;
const SEED = 11;
const OUTAGE_MINUTES = [1, 5, 20, 60];
const CAPACITIES = [1.2, 1.5, 3, 10];
const QUICK_OUTAGE_MINUTES = [5];
const QUICK_CAPACITIES = [1.5, 3];
const ONE_LOST_OF = 50;
/** The size of the queue that was observed in an overload that never ended. */
const OVERLOADED = 21_087;
const MAX_RATIO = 1.5;
const MAX_FOUND_MINUTES = 7;
const MAX_FOUND_MINUTES_WITHOUT_COUNTS = 20;
const REPRODUCED: Omit<Scenario, "policy"> = {
  load: LOAD,
  capacity: 3,
  outageMinutes: 5,
  maxMinutes: 30,
  seed: SEED,
};
const POLICIES: readonly (readonly [Policy, string])[] = [
  ["plan", "with the queue's counts"],
  ["plan_without_counts", "without them"],
];

export const overload: Benchmark = {
  name: "overload",
  measured:
    "a seeded simulation of outages of dispatch with the reconciler's own decision code: the time until the queue is back " +
    "to normal, against the same outage without a reconciler, and the time until completions that were lost (one of 50) " +
    "are dispatched",
  notShown: "real time, a queue that is not first in, first out, and completions without waiting children",
  run({ quick, note }) {
    const rows = reproduce(quick);
    for (const outageMinutes of quick ? QUICK_OUTAGE_MINUTES : OUTAGE_MINUTES) {
      note(`outages of ${outageMinutes} minutes`);
      for (const capacity of quick ? QUICK_CAPACITIES : CAPACITIES) {
        for (const [policy, title] of POLICIES)
          rows.push(outage(quick, policy, title, outageMinutes, capacity));
      }
    }
    return Promise.resolve(rows);
  },
};

/** The overload of a reconciler that sends every late completion in every sweep. */
function reproduce(quick: boolean): Row[] {
  const without = simulate({ ...REPRODUCED, policy: "none" });
  const always = simulate({ ...REPRODUCED, policy: "always" });
  expectEqual("completions queued after the outage", without.queuedAtOutageEnd, 1_254);
  expectEqual("recovery of the reconciler of release 0.1", always.recoveryMinutes, Number.POSITIVE_INFINITY);
  return [
    {
      what: "5 min at 3x, no reconciler",
      figures: {
        queued_after_outage: without.queuedAtOutageEnd,
        recovery_min: without.recoveryMinutes,
        queued_at_end: without.queuedAtEnd,
      },
    },
    {
      what: "5 min at 3x, every sweep resends",
      figures: {
        queued_after_outage: always.queuedAtOutageEnd,
        queued_at_end: always.queuedAtEnd,
        resent: always.resent,
      },
      goals: quick
        ? []
        : [atLeast("reproduces the overload: 21,087 messages, growing", always.queuedAtEnd, OVERLOADED)],
    },
  ];
}

function outage(quick: boolean, policy: Policy, title: string, outageMinutes: number, capacity: number): Row {
  const recoveryMinutes = outageMinutes / (capacity - 1);
  const scenario = {
    load: LOAD,
    capacity,
    outageMinutes,
    maxMinutes: 2 * recoveryMinutes + 30,
    seed: SEED,
  };
  const without = simulate({ ...scenario, policy: "none" });
  const course = simulate({ ...scenario, policy });
  const lossy = simulate({ ...scenario, policy, oneLostOf: ONE_LOST_OF });
  expectEqual("lost completions not found", lossy.notFound, 0);
  const maxFoundMinutes =
    policy === "plan_without_counts" ? MAX_FOUND_MINUTES_WITHOUT_COUNTS : MAX_FOUND_MINUTES;
  const ratio = course.recoveryMinutes / without.recoveryMinutes;
  return {
    what: `${outageMinutes} min at ${capacity}x, ${title}`,
    figures: {
      recovery_min: course.recoveryMinutes,
      times_without: ratio,
      queued_after_outage: course.queuedAtOutageEnd,
      resent: course.resent,
      lost: lossy.lost,
      last_found_min: lossy.lastFoundMinutes,
    },
    goals: quick
      ? []
      : [
          atMost(`at most ${MAX_RATIO} times the recovery without a reconciler`, ratio, MAX_RATIO),
          atMost(
            `lost completions dispatched at most ${maxFoundMinutes} min after the recovery (min)`,
            lossy.lastFoundMinutes,
            maxFoundMinutes,
          ),
        ],
  };
}

import { describe, expect, it } from "vitest";
import { UnreachableError } from "#shared/errors.ts";
import type { IndexFamily } from "#shared/reconcile/indexes.ts";
import { acquireLease, CHECKPOINT_KEY, LEASE_KEY } from "#shared/reconcile/lease.ts";
import { KEPT, type Outcome, PROCESSED, UNFINISHED } from "#shared/reconcile/outcome.ts";
import { sweep } from "#shared/reconcile/sweep.ts";
import type { ReconcilerTask } from "#shared/reconcile/task.ts";
import type { TaskName } from "#shared/reconcile/task-names.ts";
import type { FlowFixture } from "#test/support/flow-fixture.ts";
import { SERVER_KINDS, useReconcilerServers } from "#test/support/reconcile.ts";

const DUE: IndexFamily = {
  name: "due",
  paging: "due",
  isPerLane: false,
  keyOf: (keys) => keys.suspensionTimeout,
};

/** A task over an index of its own that records what it processes. */
function taskOf(
  name: TaskName,
  process: (member: string) => Outcome | Promise<Outcome>,
  overrides: Partial<ReconcilerTask> = {},
): ReconcilerTask {
  return {
    name,
    families: [DUE],
    metrics: [],
    ages: [],
    batchSize: 1,
    sendsAtEnd: false,
    isTimeCritical: false,
    begin: () => ({
      process: async (entries) => {
        const outcomes: Outcome[] = [];
        for (const { member } of entries) outcomes.push(await process(member));
        return outcomes;
      },
    }),
    ...overrides,
  };
}

describe.each(SERVER_KINDS)("the turns of the tasks (%s)", (kind) => {
  const servers = useReconcilerServers(kind);

  async function entriesIn(fixtures: readonly FlowFixture[], count: number): Promise<void> {
    for (const fixture of fixtures) {
      for (let index = 0; index < count; index += 1) {
        await fixture.read("zadd", fixture.index.suspensionTimeout, 1_000 + index, `entry ${index}`);
      }
    }
  }

  it("alternate: a task that takes long starves no other, and the first goes first", async () => {
    const fixtures = Array.from({ length: 5 }, () => servers().fixture());
    await entriesIn(fixtures, 1);
    let now = Date.now();
    const order: string[] = [];
    const step = (name: string) => () => {
      now += 1_500;
      order.push(name);
      return KEPT;
    };
    const tasks = [
      taskOf("leases", step("leases")),
      taskOf("delays", step("delays")),
      taskOf("retention", step("retention")),
    ];
    const report = await sweep(servers().ports(fixtures, { tasks, now: () => now }));
    expect(report).toMatchObject({ state: "complete" });
    expect(order).toHaveLength(15);
    // The first slice of each task reads its pages as well.
    for (let turn = 0; turn < 15; turn += 3) {
      expect(new Set(order.slice(turn, turn + 3))).toEqual(new Set(["leases", "delays", "retention"]));
    }
    expect(order[0]).toBe("leases");
  });

  it("a task that stopped resumes at its checkpoint, while the others start again", async () => {
    const fixtures = Array.from({ length: 6 }, () => servers().fixture());
    await entriesIn(fixtures, 1);
    let now = Date.now();
    const slow: number[] = [];
    const fast: number[] = [];
    let run = 0;
    const tasks = [
      taskOf("leases", () => {
        fast.push(run);
        return KEPT;
      }),
      taskOf("retention", () => {
        now += 1_000;
        slow.push(run);
        return KEPT;
      }),
    ];
    const ports = () => servers().ports(fixtures, { tasks, now: () => now, deadlineMs: now + 4_500 });
    const first = await sweep(ports());
    expect(first).toMatchObject({
      state: "out_of_time",
      tasks: { leases: { state: "complete" }, retention: { state: "out_of_time" } },
    });
    expect(Object.keys(JSON.parse(String(await servers().valkey.call("get", CHECKPOINT_KEY))))).toEqual([
      "retention",
    ]);
    while (run < 10) {
      run += 1;
      if ((await sweep(ports())).state === "complete") break;
    }
    expect(slow).toHaveLength(6);
    expect(fast).toHaveLength(6 * (run + 1));
    expect(run).toBeGreaterThan(0);
    expect(await servers().valkey.call("exists", CHECKPOINT_KEY)).toBe(0);
  });

  it("an error of a task stops no other, and fails only the page that it comes from", async () => {
    const fixtures = Array.from({ length: 3 }, () => servers().fixture());
    await entriesIn(fixtures, 1);
    const [bad] = fixtures;
    await bad?.read("zadd", bad.index.suspensionTimeout, 1, "bad");
    const seen: string[] = [];
    const tasks = [
      taskOf(
        "leases",
        (member) => {
          if (member === "bad") throw new Error("a bug");
          seen.push(member);
          return KEPT;
        },
        { batchSize: 100 },
      ),
      taskOf("delays", () => PROCESSED, {
        begin: () => ({
          process: async (entries) => entries.map(() => KEPT),
          finish: () => Promise.reject(new Error("another bug")),
        }),
      }),
      taskOf("retention", () => KEPT),
    ];
    const ports = servers().ports(fixtures, { tasks });
    await expect(sweep(ports)).rejects.toThrow("another bug");
    expect(seen).toHaveLength(2);
    expect(ports.telemetry.warnings.map(({ fields }) => fields.reason)).toContain("a bug");
    expect(await servers().valkey.call("exists", LEASE_KEY)).toBe(0);
    const report = await sweep(servers().ports(fixtures, { tasks: tasks.toSpliced(1, 1) }));
    expect(report).toMatchObject({
      state: "incomplete",
      unread: 1,
      tasks: { leases: { state: "incomplete", unread: 1 }, retention: { state: "complete", unread: 0 } },
    });
  });

  it("an unavailable Valkey stops all tasks", async () => {
    const fixture = servers().fixture();
    await entriesIn([fixture], 1);
    let hasRun = false;
    const tasks = [
      taskOf("leases", () => {
        throw new UnreachableError("no reply");
      }),
      taskOf("delays", () => {
        hasRun = true;
        return KEPT;
      }),
    ];
    await expect(sweep(servers().ports([fixture], { tasks }))).rejects.toThrow("no reply");
    expect(hasRun).toBe(false);
  });

  it("entries that leave, stay or are unfinished are each processed as often as needed", async () => {
    // So many indexes have pages of 100 entries.
    const [fixture, ...others] = Array.from({ length: 201 }, () => servers().fixture());
    if (fixture === undefined) throw new Error("no fixture");
    const { suspensionTimeout } = fixture.index;
    const members = Array.from({ length: 350 }, (_, index) => `${index}`.padStart(3, "0"));
    // All have one of two scores, so that pages begin and end within a score.
    for (const member of members) {
      await fixture.read("zadd", suspensionTimeout, Number(member) < 170 ? 1_000 : 2_000, member);
    }
    const processed = new Map<string, number>();
    const remaining = new Map(
      members.filter((member) => Number(member) % 50 === 7).map((member) => [member, 3]),
    );
    const tasks = [
      taskOf("retention", async (member) => {
        processed.set(member, (processed.get(member) ?? 0) + 1);
        const left = remaining.get(member) ?? 0;
        if (left > 0) {
          remaining.set(member, left - 1);
          return UNFINISHED;
        }
        if (Number(member) % 3 === 0) return KEPT;
        await fixture.read("zrem", suspensionTimeout, member);
        return PROCESSED;
      }),
    ];
    expect(await sweep(servers().ports([fixture, ...others], { tasks }))).toMatchObject({
      state: "complete",
    });
    expect(processed.size).toBe(350);
    expect(await fixture.read("zcard", suspensionTimeout)).toBe(117);
    for (const member of remaining.keys()) expect(processed.get(member)).toBeGreaterThanOrEqual(4);
  });

  it("time-critical tasks are repeated until the deadline, and the lease is kept", async () => {
    const fixture = servers().fixture();
    const begun: string[] = [];
    let now = Date.now();
    const task = (name: TaskName, isTimeCritical: boolean) =>
      taskOf(name, () => KEPT, {
        isTimeCritical,
        begin: () => {
          begun.push(name);
          return { process: async (entries) => entries.map(() => KEPT) };
        },
      });
    const tasks = [task("leases", true), task("dependencies", false), task("delays", true)];
    const leaseTimes: number[] = [];
    const ports = servers().ports([fixture], {
      tasks,
      intervalMs: 5_000,
      now: () => now,
      sleep: async (ms) => {
        now += ms;
        leaseTimes.push(Number(await servers().valkey.call("pttl", LEASE_KEY)));
        await servers().valkey.call("pexpire", LEASE_KEY, 20_000);
      },
      deadlineMs: now + 21_000,
    });
    expect(await sweep(ports)).toMatchObject({ state: "complete" });
    // At 0, 5, 10, 15 and 20 seconds, and once more before the deadline: the next run begins after more than an interval.
    const repeated = Array.from({ length: 5 }, () => ["leases", "delays"]).flat();
    expect(begun.slice(0, 3)).toEqual(["leases", "dependencies", "delays"]);
    expect(begun.slice(3).toSorted()).toEqual(repeated.toSorted());
    // Pauses of 2, 2 and 1 seconds: the lease is renewed every 2 seconds.
    expect(leaseTimes).toHaveLength(13);
    expect(leaseTimes.filter((ms) => ms > 20_000).length).toBeGreaterThanOrEqual(8);
    expect(await servers().valkey.call("exists", LEASE_KEY)).toBe(0);
  });

  it("a repetition ends if the lease is lost meanwhile", async () => {
    const fixture = servers().fixture();
    let begun = 0;
    const { valkey } = servers();
    const task = taskOf("leases", () => KEPT, {
      isTimeCritical: true,
      begin: () => {
        begun += 1;
        return { process: async () => [] };
      },
    });
    let now = Date.now();
    const stolen = {
      pipelined: valkey.pipelined.bind(valkey),
      call: async (...args: Parameters<typeof valkey.call>) => {
        if (begun > 1) await valkey.call("set", LEASE_KEY, "another run");
        return valkey.call(...args);
      },
    };
    const ports = servers().ports([fixture], {
      tasks: [task],
      intervalMs: 3_000,
      now: () => now,
      sleep: async (ms) => {
        now += ms;
      },
      deadlineMs: now + 600_000,
      valkey: stolen,
    });
    expect(await sweep(ports)).toMatchObject({ state: "lease_lost" });
    expect(await acquireLease(valkey)).toBeUndefined();
  });
});

import { describe, expect, it } from "vitest";
import { type LaneId, parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { type ExecKeys, LANES_KEY, readyResentKey } from "#shared/contract/keys.ts";
import { pauseLane, resumeLane } from "#shared/ready/paused-lanes.ts";
import { LEASE_KEY } from "#shared/reconcile/lease.ts";
import { formatMark, parseMark } from "#shared/reconcile/resend-policy.ts";
import { type ReconcilerPorts, sweep } from "#shared/reconcile/sweep.ts";
import { ready } from "#shared/reconcile/tasks/ready.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { DEATHS, DyingValkey, losingReplies } from "#test/support/dying-valkey.ts";
import { type FlowFixture, LANE } from "#test/support/flow-fixture.ts";
import { readyPorts } from "#test/support/ready.ts";
import { MINUTE_MS, SERVER_KINDS, useReconcilerServers } from "#test/support/reconcile.ts";

const GPU = unwrap(parseLaneId("gpu"));

/** Makes an execution eligible since `agoMs`. */
async function age(fixture: FlowFixture, keys: ExecKeys, agoMs: number): Promise<void> {
  await fixture.read("hset", keys.core, "last_transition_at", Date.now() - agoMs);
}

async function overdue(fixture: FlowFixture, agoMs = 5 * MINUTE_MS): Promise<ExecKeys> {
  const keys = await fixture.member();
  await age(fixture, keys, agoMs);
  return keys;
}

describe.each(SERVER_KINDS)("the task ready (%s)", (kind) => {
  const servers = useReconcilerServers(kind);

  function portsOf(
    fixture: FlowFixture,
    { lanes = [LANE], ...overrides }: Partial<Omit<ReconcilerPorts, "telemetry">> = {},
  ) {
    const readyQueues = readyPorts(lanes);
    const tasks = [ready(readyQueues)];
    return { ...servers().ports([fixture], { tasks, lanes, readyQueues, ...overrides }), readyQueues };
  }

  /** Sweeps, and returns the executions whose messages were sent. */
  async function swept(fixture: FlowFixture, queued = 0): Promise<string[]> {
    const ports = portsOf(fixture);
    ports.readyQueues.queue.queued = queued;
    await sweep(ports);
    return ports.readyQueues.publisher.ids;
  }

  const markOf = (fixture: FlowFixture, { id }: ExecKeys, flowId = fixture.flow.id) =>
    fixture.read("get", readyResentKey(id, flowId));

  async function backdateMark(fixture: FlowFixture, keys: ExecKeys, byMs: number): Promise<void> {
    const mark = parseMark(String(await markOf(fixture, keys)));
    if (mark === undefined) throw new Error("no mark");
    const text = formatMark({ ...mark, sentAtMs: mark.sentAtMs - byMs });
    await fixture.read("set", readyResentKey(keys.id, fixture.flow.id), text);
  }

  it("sends what is eligible and unclaimed for longer than the grace, and nothing else", async () => {
    const fixture = servers().fixture();
    const lost = await overdue(fixture);
    const recent = await fixture.member();
    const claimed = await overdue(fixture);
    await fixture.claim(claimed);
    const blocked = await fixture.member();
    await fixture.edge(recent, blocked);
    await age(fixture, blocked, 5 * MINUTE_MS);
    const delayed = await fixture.member({ delayUntil: Date.now() + MINUTE_MS });
    await age(fixture, delayed, 5 * MINUTE_MS);
    const ports = portsOf(fixture);
    expect(await sweep(ports)).toMatchObject({
      state: "complete",
      tasks: { ready: { counts: { [METRICS.readyResent]: 1, [METRICS.readyDeferred]: 0 } } },
    });
    expect(ports.readyQueues.publisher.announced).toEqual([
      { executionId: lost.id, flowId: fixture.flow.id, lane: LANE, kind: "task" },
    ]);
  });

  it("sends again after 1, 2 and 4 minutes, and at once for another eligibility", async () => {
    const fixture = servers().fixture();
    const lost = await overdue(fixture);
    expect(await swept(fixture)).toEqual([lost.id]);
    for (const minutes of [1, 2, 4]) {
      expect(await swept(fixture)).toEqual([]);
      await backdateMark(fixture, lost, minutes * MINUTE_MS);
      expect(await swept(fixture)).toEqual([lost.id]);
    }
    await fixture.read("hset", lost.core, "total_attempt_count", 1);
    expect(await swept(fixture)).toEqual([lost.id]);
  });

  it("leaves a paused lane alone, until it is resumed", async () => {
    const fixture = servers().fixture();
    const lost = await overdue(fixture);
    await fixture.valkey.pipelined([pauseLane(LANE, { pausedAtMs: Date.now(), actor: "test", reason: "" })]);
    try {
      expect(await swept(fixture)).toEqual([]);
      expect(await markOf(fixture, lost)).toBeNull();
    } finally {
      await fixture.valkey.pipelined([resumeLane(LANE)]);
    }
    expect(await swept(fixture)).toEqual([lost.id]);
  });

  it("leaves a flow that was begun and not completed to its submission", async () => {
    const fixture = servers().fixture();
    const lost = await overdue(fixture);
    await fixture.read("hset", fixture.flow.core, "submission_tasks", 2);
    expect(await swept(fixture)).toEqual([]);
    expect(await markOf(fixture, lost)).toBeNull();
    await fixture.read("hset", fixture.flow.core, "submission_completed_at", Date.now());
    expect(await swept(fixture)).toEqual([lost.id]);
  });

  it("leaves the members of a cancelled flow to the cancellation", async () => {
    const fixture = servers().fixture();
    await overdue(fixture);
    await fixture.read("hset", fixture.flow.core, "public_flow_state", "cancelled");
    expect(await swept(fixture)).toEqual([]);
  });

  it("counts the age of a root that release 0.1 submitted from the end of its submission", async () => {
    const flow = await servers().submit("up>child");
    const { fixture } = flow;
    const { core } = flow.keys("up");
    await fixture.read("hset", core, "last_transition_at", Date.UTC(9999, 11, 31, 23, 59, 59));
    expect(await swept(fixture)).toEqual([]);
    const past = Date.now() - MINUTE_MS;
    await fixture.read("hset", fixture.flow.core, "submission_completed_at", past);
    expect(await swept(fixture)).toEqual([flow.keys("up").id]);
  });

  it("sends the message of an execution in no flow", async () => {
    const fixture = servers().fixture();
    const solo = await fixture.execution();
    await age(fixture, solo, 5 * MINUTE_MS);
    expect(await swept(fixture)).toEqual([solo.id]);
    expect(await fixture.read("get", readyResentKey(solo.id, undefined))).toMatch(/^0:0\|1\|/);
    expect(await swept(fixture)).toEqual([]);
  });

  it("behind a backlog, sends one message per run, that with the fewest sends and the longest wait first", async () => {
    const fixture = servers().fixture();
    const [older, oldest, old] = [
      await overdue(fixture, 6 * MINUTE_MS),
      await overdue(fixture, 7 * MINUTE_MS),
      await overdue(fixture, 5 * MINUTE_MS),
    ];
    const ports = portsOf(fixture);
    ports.readyQueues.queue.queued = 1_000;
    expect(await sweep(ports)).toMatchObject({
      tasks: { ready: { counts: { [METRICS.readyResent]: 1, [METRICS.readyDeferred]: 2 } } },
    });
    expect(ports.readyQueues.publisher.ids).toEqual([oldest.id]);
    await backdateMark(fixture, oldest, MINUTE_MS);
    expect(await swept(fixture, 1_000)).toEqual([older.id]);
    expect(await swept(fixture, 1_000)).toEqual([old.id]);
    expect(await swept(fixture, 1_000)).toEqual([oldest.id]);
  });

  it("counts the queue of each lane for itself, and reads only lanes with a queue", async () => {
    const fixture = servers().fixture();
    const other = servers().fixture(GPU);
    const lost: string[] = [];
    for (let index = 0; index < 3; index += 1) {
      lost.push((await overdue(other)).id);
      await overdue(fixture);
    }
    const polled = servers().fixture(unwrap(parseLaneId("polled")));
    await overdue(polled);
    const names: readonly LaneId[] = [LANE, GPU, polled.lane];
    await servers().valkey.call("sadd", LANES_KEY, ...names);
    const partitions = [fixture, other, polled].map(({ flow }) => flow.partition);
    const readyQueues = readyPorts([LANE, GPU]);
    readyQueues.backlogs.set(LANE, { count: () => Promise.resolve(500) });
    const tasks = [ready(readyQueues)];
    const ports = servers().ports(partitions, { tasks, readyQueues });
    expect(await sweep(ports)).toMatchObject({ tasks: { ready: { scanned: 6 } } });
    const byLane = Map.groupBy(readyQueues.publisher.announced, ({ lane }) => lane);
    expect(byLane.get(LANE)).toHaveLength(1);
    expect(
      byLane
        .get(GPU)
        ?.map(({ executionId }) => executionId)
        .sort(),
    ).toEqual(lost.sort());
    expect(byLane.size).toBe(2);
  });

  it("sends a few if the queue's counts are unknown", async () => {
    const fixture = servers().fixture();
    const lost = await overdue(fixture);
    const ports = portsOf(fixture);
    ports.readyQueues.backlogs.set(LANE, { count: () => Promise.reject(new Error("no permission")) });
    expect(await sweep(ports)).toMatchObject({ state: "complete" });
    expect(ports.readyQueues.publisher.ids).toEqual([lost.id]);
  });

  it.each([
    ["refused", null],
    ["unknown", expect.stringMatching(/^0:0\|1\|/)],
  ] as const)("a message that is not known to be accepted: %s", async (failure, mark) => {
    const fixture = servers().fixture();
    const lost = await overdue(fixture);
    const ports = portsOf(fixture);
    const { publisher } = ports.readyQueues;
    publisher.fail = () => true;
    publisher.failure = failure;
    expect(await sweep(ports)).toMatchObject({ state: "incomplete" });
    expect(await markOf(fixture, lost)).toEqual(mark);
    expect(await swept(fixture)).toEqual(failure === "refused" ? [lost.id] : []);
  });

  it("skips what is unreadable, and goes on behind it", async () => {
    const fixture = servers().fixture();
    const broken = await overdue(fixture);
    await fixture.read("del", broken.core);
    await fixture.read("set", broken.core, "not a hash");
    const strange = await overdue(fixture);
    await fixture.read("hset", strange.core, "flow_id", "no flow id");
    await fixture.read("zadd", fixture.index.lane(LANE).eligible, 1, "no execution");
    const lost = await overdue(fixture);
    const ports = portsOf(fixture);
    expect(await sweep(ports)).toMatchObject({ state: "complete", unreadable: 3 });
    expect(ports.readyQueues.publisher.ids).toEqual([lost.id]);
  });

  it.each(DEATHS)("a process may die at any pipeline: %s", async (death) => {
    for (let at = 0; ; at += 1) {
      const fixture = servers().fixture();
      const lost = await overdue(fixture);
      const ports = portsOf(fixture);
      const dying = new DyingValkey(ports.valkey, at, death);
      const ended = await sweep({ ...ports, valkey: dying }).then(
        () => "complete",
        () => "died",
      );
      expect(ended).toBe(dying.hasDied ? "died" : "complete");
      await servers().valkey.call("del", LEASE_KEY);
      const wasSent = ports.readyQueues.publisher.ids.length === 1;
      // A mark without a send delays the message by a minute.
      if ((await markOf(fixture, lost)) !== null) await backdateMark(fixture, lost, MINUTE_MS);
      expect(await swept(fixture)).toEqual([lost.id]);
      if (dying.hasDied) continue;
      expect(wasSent).toBe(true);
      return;
    }
  });

  it("any reply may be lost: the message is sent by this sweep or by one after a minute", async () => {
    for (let at = 0; at < 4; at += 1) {
      const fixture = servers().fixture();
      const lost = await overdue(fixture);
      const ports = portsOf(fixture);
      await sweep({ ...ports, valkey: losingReplies(ports.valkey, at) });
      if (ports.readyQueues.publisher.ids.length === 0) {
        await backdateMark(fixture, lost, MINUTE_MS);
        expect(await swept(fixture)).toEqual([lost.id]);
      }
    }
  });
});

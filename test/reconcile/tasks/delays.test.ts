import { describe, expect, it } from "vitest";
import { parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { type ExecKeys, LANES_KEY } from "#shared/contract/keys.ts";
import { UnreachableError } from "#shared/errors.ts";
import { announceUnmarked } from "#shared/ready/announce.ts";
import { type ReconcilerPorts, sweep } from "#shared/reconcile/sweep.ts";
import { delays } from "#shared/reconcile/tasks/delays.ts";
import { ready } from "#shared/reconcile/tasks/ready.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { stateOf } from "#test/support/dispatch.ts";
import { DEATHS, DyingValkey, losingReplies } from "#test/support/dying-valkey.ts";
import { expectOnlyIn } from "#test/support/expectations.ts";
import { type FlowFixture, LANE, ROUTER } from "#test/support/flow-fixture.ts";
import { RecordedReady, readyPorts } from "#test/support/ready.ts";
import { MINUTE_MS, SERVER_KINDS, useReconcilerServers } from "#test/support/reconcile.ts";
import { onEveryPrimary } from "#test/support/valkey.ts";

const GPU = unwrap(parseLaneId("gpu"));

/** Makes the time of a delayed execution come a minute ago. */
async function makeDue(fixture: FlowFixture, keys: ExecKeys): Promise<void> {
  const past = Date.now() - MINUTE_MS;
  await fixture.read("hset", keys.core, "delay_until", past);
  await fixture.read("zadd", fixture.index.lane(fixture.lane).delayed, past, keys.id);
}

async function dueDelay(fixture: FlowFixture): Promise<ExecKeys> {
  const keys = await fixture.execution({ delayUntil: Date.now() + 10 * MINUTE_MS });
  await makeDue(fixture, keys);
  return keys;
}

describe.each(SERVER_KINDS)("the task delays (%s)", (kind) => {
  const servers = useReconcilerServers(kind);
  const portsOf = (fixture: FlowFixture, overrides: Partial<Omit<ReconcilerPorts, "telemetry">> = {}) =>
    servers().ports([fixture], { tasks: [delays], ...overrides });

  it("promotes what is due, and nothing else", async () => {
    const fixture = servers().fixture();
    const due = await dueDelay(fixture);
    const later = await fixture.execution({ delayUntil: Date.now() + MINUTE_MS });
    const ports = portsOf(fixture);
    expect(await sweep(ports)).toMatchObject({
      state: "complete",
      tasks: { delays: { scanned: 1, counts: { [METRICS.delaysPromoted]: 1 } } },
    });
    await expectOnlyIn(fixture, due, "eligible");
    await expectOnlyIn(fixture, later, "delayed");
    const age = ports.telemetry.gauges.get(METRICS.oldestDueDelay);
    expect(age).toBeGreaterThanOrEqual(60);
    expect(age).toBeLessThan(90);
    const idle = portsOf(fixture);
    await sweep(idle);
    expect(idle.telemetry.gauges.get(METRICS.oldestDueDelay)).toBe(0);
  });

  it("promotes a retry, which keeps its number of attempts", async () => {
    const fixture = servers().fixture();
    const keys = await fixture.execution();
    const policy = JSON.stringify({ max_retries: 3, backoff: { type: "fixed", delay_ms: 600_000 } });
    const [scheduled] = await fixture.fail(keys, await fixture.claim(keys), policy);
    expect(scheduled).toBe("retry_scheduled");
    await makeDue(fixture, keys);
    await sweep(portsOf(fixture));
    expect(await fixture.hash(keys.core)).toMatchObject({
      public_state: "waiting",
      attempt_state: "pending_retry_attempt",
      retry_count: "1",
    });
    expect((await fixture.claim(keys)).attemptIndex).toBe(1);
  });

  it("sweeps the lanes that the deployment records", async () => {
    const fixture = servers().fixture(GPU);
    const keys = await dueDelay(fixture);
    await sweep(portsOf(fixture));
    expect(await stateOf(fixture, keys)).toBe("delayed");
    await servers().valkey.call("sadd", LANES_KEY, GPU);
    await sweep(portsOf(fixture));
    expect(await stateOf(fixture, keys)).toBe("waiting");
  });

  it("does not promote early, whatever the clock of the function says", async () => {
    const fixture = servers().fixture();
    const keys = await fixture.execution({ delayUntil: Date.now() + MINUTE_MS });
    // A wrong score: the record decides.
    await fixture.read("zadd", fixture.index.lane(fixture.lane).delayed, Date.now() - MINUTE_MS, keys.id);
    const fast = { now: () => Date.now() + 5 * MINUTE_MS };
    expect(await sweep(portsOf(fixture, fast))).toMatchObject({ state: "complete" });
    expect(await stateOf(fixture, keys)).toBe("delayed");
  });

  it("uses another node's clock while the node of the lease is unavailable", async () => {
    const fixture = servers().fixture();
    const early = await fixture.execution({ delayUntil: Date.now() + MINUTE_MS });
    const due = await dueDelay(fixture);
    const ports = portsOf(fixture, { now: () => Date.now() + 5 * MINUTE_MS });
    const valkey: ReconcilerPorts["valkey"] = {
      pipelined: ports.valkey.pipelined.bind(ports.valkey),
      call: () => Promise.reject(new UnreachableError("no reply")),
    };
    expect(await sweep({ ...ports, valkey })).toMatchObject({ state: "complete" });
    expect(await stateOf(fixture, due)).toBe("waiting");
    expect(await stateOf(fixture, early)).toBe("delayed");
  });

  it("announces what it promoted, of a flow or of none, unless a delayed message did", async () => {
    const fixture = servers().fixture();
    const solo = await dueDelay(fixture);
    const [member, announced] = [
      await fixture.member({ delayUntil: Date.now() + 10 * MINUTE_MS }),
      await fixture.member({ delayUntil: Date.now() + 10 * MINUTE_MS }),
    ];
    const publisher = new RecordedReady();
    const { flow } = fixture;
    const valkey = servers().valkey;
    await announceUnmarked({ valkey, router: ROUTER, ready: publisher }, [
      { executionId: announced.id, flowId: flow.id },
    ]);
    for (const keys of [member, announced]) await makeDue(fixture, keys);
    const readyQueues = readyPorts();
    const ports = portsOf(fixture, { readyQueues });
    expect(await sweep(ports)).toMatchObject({
      state: "complete",
      tasks: { delays: { counts: { [METRICS.delaysPromoted]: 3, [METRICS.readyAnnounced]: 2 } } },
    });
    const common = { lane: LANE, kind: "task", delaySeconds: 0 };
    const expected = [
      { executionId: solo.id, flowId: undefined, ...common },
      { executionId: member.id, flowId: flow.id, ...common },
    ];
    const found = readyQueues.publisher.announced;
    expect(found).toHaveLength(2);
    expect(found).toEqual(expect.arrayContaining(expected));
    await sweep(portsOf(fixture, { readyQueues }));
    expect(readyQueues.publisher.announced).toHaveLength(2);
  });

  it.each(DEATHS)("announces what a dead run has promoted after the grace: %s", async (death) => {
    for (let at = 0; ; at += 1) {
      const fixture = servers().fixture();
      const keys = await dueDelay(fixture);
      const readyQueues = readyPorts();
      const ports = portsOf(fixture, { readyQueues });
      const dying = new DyingValkey(ports.valkey, at, death);
      await sweep({ ...ports, valkey: dying }).catch(() => undefined);
      await servers().valkey.call("del", "ff:reconcile:{sweep}:lease");
      await sweep(portsOf(fixture, { readyQueues }));
      await fixture.read("hset", keys.core, "last_transition_at", Date.now() - MINUTE_MS);
      if (readyQueues.publisher.ids.length === 0) {
        await sweep(portsOf(fixture, { readyQueues, tasks: [ready(readyQueues)] }));
      }
      expect(readyQueues.publisher.ids).toEqual([keys.id]);
      if (!dying.hasDied) return;
    }
  });

  it("a message that is not accepted makes the sweep incomplete, and the execution stays promoted", async () => {
    const fixture = servers().fixture();
    const keys = await dueDelay(fixture);
    const readyQueues = readyPorts();
    readyQueues.publisher.fail = () => true;
    expect(await sweep(portsOf(fixture, { readyQueues }))).toMatchObject({ state: "incomplete" });
    await expectOnlyIn(fixture, keys, "eligible");
  });

  it("skips what is unreadable, and goes on behind it", async () => {
    const fixture = servers().fixture();
    const broken = await dueDelay(fixture);
    await fixture.read("del", broken.core);
    await fixture.read("set", broken.core, "not a hash");
    await fixture.read("zadd", fixture.index.lane(fixture.lane).delayed, 1, "no execution");
    const next = await dueDelay(fixture);
    const ports = portsOf(fixture);
    expect(await sweep(ports)).toMatchObject({ state: "complete", unreadable: 2 });
    expect(await stateOf(fixture, next)).toBe("waiting");
    // What can never be promoted does not raise an alarm for ever.
    const again = portsOf(fixture);
    expect(await sweep(again)).toMatchObject({ unreadable: 2 });
    expect(again.telemetry.gauges.get(METRICS.oldestDueDelay)).toBe(0);
  });

  it("loads the library if it is missing", async () => {
    const fixture = servers().fixture();
    const keys = await dueDelay(fixture);
    await onEveryPrimary(servers().valkey, "function", "FLUSH", "SYNC");
    expect(await sweep(portsOf(fixture))).toMatchObject({ state: "complete", unread: 0 });
    expect(await stateOf(fixture, keys)).toBe("waiting");
  });

  it.each(DEATHS)("a process may die at any pipeline: %s", async (death) => {
    for (let at = 0; ; at += 1) {
      const fixture = servers().fixture();
      const keys = await dueDelay(fixture);
      const ports = portsOf(fixture);
      const valkey = new DyingValkey(ports.valkey, at, death);
      const ended = await sweep({ ...ports, valkey }).then(
        () => "complete",
        () => "died",
      );
      expect(ended).toBe(valkey.hasDied ? "died" : "complete");
      await servers().valkey.call("del", "ff:reconcile:{sweep}:lease");
      await sweep(portsOf(fixture));
      await expectOnlyIn(fixture, keys, "eligible");
      if (valkey.hasDied) continue;
      expect(at).toBeGreaterThan(0);
      return;
    }
  });

  it("any reply may be lost: the sweep retries the page", async () => {
    for (const at of [0, 1]) {
      const fixture = servers().fixture();
      const keys = await dueDelay(fixture);
      const ports = portsOf(fixture);
      expect(await sweep({ ...ports, valkey: losingReplies(ports.valkey, at) })).toMatchObject({
        state: "complete",
      });
      await expectOnlyIn(fixture, keys, "eligible");
    }
  });
});

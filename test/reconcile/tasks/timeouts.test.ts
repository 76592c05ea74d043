import { describe, expect, it } from "vitest";
import type { ExecKeys } from "#shared/contract/keys.ts";
import type { ExpiryReason } from "#shared/contract/upkeep.ts";
import { type ReconcilerPorts, sweep } from "#shared/reconcile/sweep.ts";
import { dependencies } from "#shared/reconcile/tasks/dependencies.ts";
import { timeouts } from "#shared/reconcile/tasks/timeouts.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { dispatchAll, portsOf as dispatcherPorts, stateOf } from "#test/support/dispatch.ts";
import { DEATHS, DyingValkey, losingReplies } from "#test/support/dying-valkey.ts";
import { expectOnlyIn } from "#test/support/expectations.ts";
import type { FlowFixture } from "#test/support/flow-fixture.ts";
import { backdateEnd, MINUTE_MS, SERVER_KINDS, useReconcilerServers } from "#test/support/reconcile.ts";

const REASONS: readonly ExpiryReason[] = ["attempt_timeout", "execution_deadline"];

function indexOf({ index }: FlowFixture, reason: ExpiryReason): string {
  return reason === "attempt_timeout" ? index.attemptTimeout : index.executionDeadline;
}

/** A running execution with one child, whose time was up a minute ago. */
async function overdue(fixture: FlowFixture, reason: ExpiryReason = "attempt_timeout"): Promise<ExecKeys> {
  const keys = await fixture.member();
  await fixture.edge(keys, await fixture.member());
  await fixture.claim(keys);
  await fixture.read("zadd", indexOf(fixture, reason), Date.now() - MINUTE_MS, keys.id);
  return keys;
}

describe.each(SERVER_KINDS)("the task timeouts (%s)", (kind) => {
  const servers = useReconcilerServers(kind);
  const portsOf = (fixture: FlowFixture, overrides: Partial<Omit<ReconcilerPorts, "telemetry">> = {}) =>
    servers().ports([fixture], { tasks: [timeouts], ...overrides });

  it.each(REASONS)("expires an execution after its %s, and sends its completion once", async (reason) => {
    const fixture = servers().fixture();
    const keys = await overdue(fixture, reason);
    const other = await fixture.member();
    await fixture.claim(other);
    await fixture.read("zadd", indexOf(fixture, reason), Date.now() + MINUTE_MS, other.id);
    const ports = portsOf(fixture);
    expect(await sweep(ports)).toMatchObject({
      state: "complete",
      tasks: {
        timeouts: { scanned: 1, counts: { [METRICS.executionsExpired]: 1, [METRICS.completionsSent]: 1 } },
      },
    });
    expect(ports.telemetry.counts.get(METRICS.executionsExpired)).toBe(1);
    await expectOnlyIn(fixture, keys, "terminal");
    expect(await fixture.hash(keys.core)).toMatchObject({ public_state: "expired", failure_reason: reason });
    expect(await stateOf(fixture, other)).toBe("active");
    expect(await servers().drainSent()).toEqual([keys.id]);
    await sweep(portsOf(fixture));
    await sweep(portsOf(fixture, { tasks: [dependencies] }));
    expect(await servers().drainSent()).toEqual([]);
  });

  it("dispatch skips the children of an expired execution", async () => {
    const fixture = servers().fixture();
    const keys = await fixture.member();
    const child = await fixture.member();
    await fixture.edge(keys, child);
    await fixture.claim(keys);
    await fixture.read("zadd", fixture.index.attemptTimeout, Date.now() - MINUTE_MS, keys.id);
    await sweep(portsOf(fixture));
    const events = await servers().queue.drainEvents();
    expect(await dispatchAll(dispatcherPorts(servers().valkey, servers().queue), events)).toEqual([[]]);
    expect(await stateOf(fixture, child)).toBe("skipped");
    await servers().queue.drain();
  });

  it("expires an execution that waits for its time or its dependencies at its deadline", async () => {
    const fixture = servers().fixture();
    const blocked = await fixture.member();
    await fixture.edge(await fixture.member(), blocked);
    const delayed = await fixture.member({ delayUntil: Date.now() + MINUTE_MS });
    for (const { id } of [blocked, delayed]) {
      await fixture.read("zadd", fixture.index.executionDeadline, Date.now() - MINUTE_MS, id);
    }
    expect(await sweep(portsOf(fixture))).toMatchObject({
      tasks: { timeouts: { counts: { [METRICS.executionsExpired]: 2, [METRICS.completionsSent]: 0 } } },
    });
    for (const keys of [blocked, delayed]) await expectOnlyIn(fixture, keys, "terminal");
    expect(await servers().drainSent()).toEqual([]);
  });

  it("does not end a younger attempt: the timeout changed after the index was read", async () => {
    const fixture = servers().fixture();
    const keys = await overdue(fixture);
    const ports = portsOf(fixture);
    const renewing: ReconcilerPorts["valkey"] = {
      call: ports.valkey.call.bind(ports.valkey),
      pipelined: async (commands) => {
        if (commands.some(({ name }) => name === "fcall")) {
          await fixture.read("zadd", fixture.index.attemptTimeout, Date.now() + MINUTE_MS, keys.id);
        }
        return ports.valkey.pipelined(commands);
      },
    };
    expect(await sweep({ ...ports, valkey: renewing })).toMatchObject({ state: "complete" });
    expect(await stateOf(fixture, keys)).toBe("active");
    expect(await servers().drainSent()).toEqual([]);
  });

  it("does not expire early, whatever the clock of the function says", async () => {
    const fixture = servers().fixture();
    const keys = await fixture.member();
    await fixture.read("zadd", fixture.index.executionDeadline, Date.now() + MINUTE_MS, keys.id);
    const fast = { now: () => Date.now() + 5 * MINUTE_MS };
    expect(await sweep(portsOf(fixture, fast))).toMatchObject({ tasks: { timeouts: { scanned: 0 } } });
    await fixture.read("zadd", fixture.index.executionDeadline, Date.now() - MINUTE_MS, keys.id);
    const slow = { now: () => Date.now() - 5 * MINUTE_MS };
    expect(await sweep(portsOf(fixture, slow))).toMatchObject({ tasks: { timeouts: { scanned: 1 } } });
    expect(await stateOf(fixture, keys)).toBe("expired");
  });

  it("removes entries of executions that have ended or have no record", async () => {
    const fixture = servers().fixture();
    const ended = await fixture.member();
    await fixture.finish(ended, "success");
    for (const { id } of [ended, fixture.newExecution()]) {
      await fixture.read("zadd", fixture.index.attemptTimeout, Date.now() - MINUTE_MS, id);
    }
    expect(await sweep(portsOf(fixture))).toMatchObject({ state: "complete", unreadable: 0 });
    expect(await fixture.read("zcard", fixture.index.attemptTimeout)).toBe(0);
    expect(await stateOf(fixture, ended)).toBe("completed");
  });

  it("skips unreadable records and entries, and goes on behind them", async () => {
    const fixture = servers().fixture();
    const broken = await overdue(fixture);
    await fixture.read("hset", broken.core, "current_attempt_index", "first");
    await fixture.read("zadd", fixture.index.attemptTimeout, 1, "no execution");
    const next = await overdue(fixture);
    expect(await sweep(portsOf(fixture))).toMatchObject({ state: "complete", unreadable: 2 });
    expect(await stateOf(fixture, next)).toBe("expired");
    await servers().queue.drain();
  });

  it("sends nothing that it could not mark, and counts it as incomplete", async () => {
    const fixture = servers().fixture();
    await overdue(fixture);
    const ports = portsOf(fixture);
    const readOnly: ReconcilerPorts["valkey"] = {
      call: ports.valkey.call.bind(ports.valkey),
      pipelined: async (commands) =>
        commands.some(({ name }) => name === "set")
          ? commands.map(() => ({ ok: false, error: new Error("OOM command not allowed") }) as const)
          : ports.valkey.pipelined(commands),
    };
    expect(await sweep({ ...ports, valkey: readOnly })).toMatchObject({
      state: "incomplete",
      tasks: { timeouts: { counts: { [METRICS.completionsSent]: 0 } } },
    });
    expect(await servers().drainSent()).toEqual([]);
  });

  it("more entries with one score than a page has, some of which stay, are all processed", async () => {
    const fixture = servers().fixture();
    const past = Date.now() - MINUTE_MS;
    const members: ExecKeys[] = [];
    for (let index = 0; index < 120; index += 1) {
      members.push(await fixture.execution({ deadlineAt: past }));
      await fixture.read("zadd", fixture.index.executionDeadline, past, `entry ${index}`);
    }
    // The pages of so many indexes have 100 entries.
    const partitions = Array.from({ length: 120 }, () => servers().fixture());
    const ports = servers().ports([fixture, ...partitions], { tasks: [timeouts] });
    expect(await sweep(ports)).toMatchObject({
      state: "complete",
      unreadable: 120,
      tasks: { timeouts: { scanned: 240, counts: { [METRICS.executionsExpired]: 120 } } },
    });
    for (const keys of members) expect(await stateOf(fixture, keys)).toBe("expired");
  });

  it.each(DEATHS)("a process may die at any pipeline: %s", async (death) => {
    for (let at = 0; ; at += 1) {
      const fixture = servers().fixture();
      const keys = await overdue(fixture);
      const ports = portsOf(fixture);
      const valkey = new DyingValkey(ports.valkey, at, death);
      const ended = await sweep({ ...ports, valkey }).then(
        () => "complete",
        () => "died",
      );
      expect(ended).toBe(valkey.hasDied ? "died" : "complete");
      await expectSent(fixture, keys);
      if (valkey.hasDied) continue;
      expect(at).toBeGreaterThan(3);
      return;
    }
  });

  it("any reply may be lost", async () => {
    for (let at = 0; ; at += 1) {
      const fixture = servers().fixture();
      const keys = await overdue(fixture);
      const ports = portsOf(fixture);
      const valkey = losingReplies(ports.valkey, at);
      await sweep({ ...ports, valkey });
      await expectSent(fixture, keys);
      if (valkey.hasLost()) continue;
      expect(at).toBeGreaterThan(3);
      return;
    }
  });

  /** Later sweeps expire the execution if it has not expired yet, and the completion reaches the queue. */
  async function expectSent(fixture: FlowFixture, keys: ExecKeys): Promise<void> {
    await servers().valkey.call("del", "ff:reconcile:{sweep}:lease", "ff:reconcile:{sweep}:place");
    const sent = await servers().drainSent();
    await sweep(portsOf(fixture));
    expect(await stateOf(fixture, keys)).toBe("expired");
    // As if minutes had passed: the mark is void, since the end is another.
    await backdateEnd(fixture, keys, 2 * MINUTE_MS);
    await sweep(portsOf(fixture, { tasks: [dependencies] }));
    sent.push(...(await servers().drainSent()));
    expect(sent).toContain(keys.id);
    expect(sent.length).toBeLessThanOrEqual(2);
  }
});

import { describe, expect, test } from "vitest";
import { cancelFlow, replayExecution } from "#shared/contract/graph.ts";
import { setEdgeGroupPolicy } from "#shared/contract/groups.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import {
  beginPurge,
  confirmFlowEnd,
  finishPurge,
  purgeMember,
  purgeSoloExecution,
} from "#shared/contract/retention.ts";
import { addExecutionToFlow, createFlow, stageDependencyEdge } from "#shared/contract/submission.ts";
import { expectRefusal, fixturesOn } from "#test/support/expectations.ts";
import { attempt, type FlowFixture, WORKER } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS_OF_BOTH, keysOf } from "#test/support/valkey.ts";

const NINETEEN_DAYS_MS = 19 * 24 * 3_600_000;

describe.each(DEPLOYMENTS_OF_BOTH)("purging ($name, $edition KEYS)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  const scoreOf = async (fixture: FlowFixture) =>
    Number(await fixture.read("zscore", fixture.index.flowsEnded, fixture.flow.id));
  const begin = async (fixture: FlowFixture, retainedUntil = 0) =>
    fixture.done(beginPurge(fixture.flow, fixture.index, await scoreOf(fixture), retainedUntil));
  /** All keys of the partition, without the times of the lanes' last claims: those are of lanes, and no execution's. */
  const keys = async ({ valkey, flow, index }: FlowFixture) =>
    (await keysOf(valkey, flow.partition)).filter((key) => key !== index.laneClaims).sort();

  /** A flow of three that ended: a parent that failed after a retry, its skipped child, and a member that succeeded. */
  async function endedFlow(fixture: FlowFixture): Promise<ExecKeys[]> {
    const parent = await fixture.member({ payload: "in", policyJson: "{}", tagsJson: '{"a.b":"c"}' });
    const child = await fixture.member();
    if (deployment.edition === 14) await fixture.group(child, { variant: "any_of", onSatisfied: "let_run" });
    await fixture.edge(parent, child);
    const edge = await fixture.edge(parent, child);
    await fixture.fail(parent, await fixture.claim(parent), '{"max_retries":1,"backoff":{"delay_ms":0}}');
    await fixture.read("zrem", fixture.index.lane(fixture.lane).delayed, parent.id);
    await fixture.cancel(parent, "operator_override");
    await fixture.done(fixture.resolution(edge, "failed"));
    if (deployment.edition === 14) await fixture.cancel(child, "operator_override");
    const other = await fixture.member();
    await fixture.finish(other, "success", "a result");
    return [parent, child, other];
  }

  /** Leaves everything that FlowFabric or an incident may leave of an execution. */
  async function litter(fixture: FlowFixture, execution: ExecKeys): Promise<void> {
    const { index, flow, lane } = fixture;
    const write = fixture.read.bind(fixture);
    const laneKeys = index.lane(lane);
    const { id, partition } = execution;
    const tag = `{fp:${partition}}`;
    for (const key of [
      ...Object.values(laneKeys),
      index.leaseExpiry,
      index.attemptTimeout,
      index.executionDeadline,
    ])
      await write("zadd", String(key), 1, id);
    await write("zadd", index.suspensionTimeout, 1, id);
    for (const key of [execution.leaseCurrent, execution.claimGrant, execution.suspensionCurrent])
      await write("hset", key, "a", "b");
    await write("sadd", `ff:exec:${tag}:${id}:waitpoints`, "w");
    await write("zadd", `ff:exec:${tag}:${id}:signals`, 1, "s");
    for (const key of [
      `ff:wp:${tag}:w`,
      `ff:wp:${tag}:w:signals`,
      `ff:wp:${tag}:w:condition`,
      `ff:signal:${tag}:s`,
    ])
      await write("set", key, "x");
    await write("set", `ff:signal:${tag}:s:payload`, "x");
    await write("zadd", `ff:idx:${tag}:pending_waitpoint_expiry`, 1, "w");
    for (const key of [
      execution.cascade,
      execution.cascadeClaim,
      execution.fanOut,
      execution.depthLimit,
      execution.resent(flow.id),
    ])
      await write("set", key, "x");
    await write("xadd", execution.leaseHistory, "*", "a", "b");
    await write("sadd", flow.pendingCancels, id);
    await write("sadd", index.pendingCancelGroups, `${flow.id}|${id}`);
    await write("zadd", index.cancelBacklog, 1, flow.id);
    await write("hset", flow.tags, "a.b", "c");
    const first = execution.attempt(attempt(0));
    if ((await fixture.read("exists", first)) === 0) return;
    await write("sadd", index.workerLeases(WORKER.instanceId), id);
    for (const key of [
      `${first}:summary`,
      `${first}:usage`,
      `${first}:policy`,
      execution.streamMeta(attempt(0)),
    ])
      await write("hset", key, "a", "b");
    await write("xadd", `ff:stream:${tag}:${id}:0`, "*", "a", "b");
  }

  test("deletes every key of a flow and of its members, and leaves only the mark", async () => {
    const fixture = newFixture();
    const members = await endedFlow(fixture);
    for (const member of members) await litter(fixture, member);
    expect(await begin(fixture)).toEqual(["begun"]);
    for (const member of members) {
      expect(await fixture.done(finishPurge(fixture.flow, fixture.index))).toMatchObject([
        "members_left",
        {},
      ]);
      expect(await fixture.done(purgeMember(fixture.flow, member))).toEqual(["purged"]);
    }
    expect(await fixture.read("pttl", fixture.flow.purged)).toBe(-1);
    expect(await fixture.done(finishPurge(fixture.flow, fixture.index))).toEqual(["finished"]);
    expect(await keys(fixture)).toEqual([fixture.flow.purged]);
    const ttl = Number(await fixture.read("pttl", fixture.flow.purged));
    expect(ttl).toBeGreaterThan(NINETEEN_DAYS_MS - 60_000);
    expect(ttl).toBeLessThanOrEqual(NINETEEN_DAYS_MS);
    expect(Number(await fixture.read("memory", "USAGE", fixture.flow.purged))).toBeLessThan(200);
  });

  test("every step can be repeated", async () => {
    const fixture = newFixture();
    const members = await endedFlow(fixture);
    const endedAt = await scoreOf(fixture);
    const commands = [
      beginPurge(fixture.flow, fixture.index, endedAt, 0),
      ...members.map((member) => purgeMember(fixture.flow, member)),
      finishPurge(fixture.flow, fixture.index),
    ];
    for (const command of commands) {
      const first = await fixture.done(command);
      const after = await fixture.snapshot();
      expect(await fixture.done(command)).toEqual(first);
      const repeated = await fixture.snapshot();
      delete repeated[fixture.flow.purged];
      delete after[fixture.flow.purged];
      expect(repeated).toEqual(after);
    }
  });

  test("a purged flow is refused everything that would bring it back, before and after its keys are gone", async () => {
    const fixture = newFixture();
    const members = await endedFlow(fixture);
    const [parent, child] = members as [ExecKeys, ExecKeys];
    const outsider = await fixture.execution();
    await begin(fixture);
    const { flow, index } = fixture;
    const expectRefused = async () => {
      await expectRefusal(fixture, createFlow(flow, index, "dag", "tests", 0), "flow_purged");
      await expectRefusal(fixture, addExecutionToFlow(flow, index, outsider, 0), "flow_purged");
      const edge = fixture.newEdge(parent, child);
      await expectRefusal(fixture, stageDependencyEdge(flow, edge, 0, 1), "flow_purged");
      await expectRefusal(fixture, cancelFlow(flow, index, "late", "cancel_all", 0), "flow_purged");
      if (deployment.edition === 14) {
        const policy = { variant: "any_of", onSatisfied: "let_run" } as const;
        await expectRefusal(fixture, setEdgeGroupPolicy(flow, child.id, policy, 1), "flow_purged");
      }
    };
    await expectRefused();
    await expectRefusal(fixture, replayExecution(parent, index, fixture.lane, [], 0), "flow_purged");
    for (const member of members) await fixture.done(purgeMember(flow, member));
    await fixture.done(finishPurge(flow, index));
    await expectRefused();
    await expectRefusal(fixture, replayExecution(parent, index, fixture.lane, [], 0), "execution_not_found");
  });

  test("a flow with an open member, or with another end than the caller read, is not purged", async () => {
    const fixture = newFixture();
    const [, , other] = await endedFlow(fixture);
    const endedAt = await scoreOf(fixture);
    const command = beginPurge(fixture.flow, fixture.index, endedAt, 0);
    if (other === undefined) throw new Error("no member");
    await fixture.done(replayExecution(other, fixture.index, fixture.lane, [], 0));
    expect(await fixture.done(command)).toEqual(["changed"]);
    await expectRefusal(fixture, purgeMember(fixture.flow, other), "execution_not_terminal");
    await fixture.finish(other, "success");
    await fixture.read("zadd", fixture.index.flowsEnded, endedAt + 5, fixture.flow.id);
    expect(await fixture.done(command)).toEqual(["changed"]);
    await fixture.read("zadd", fixture.index.flowsEnded, endedAt, fixture.flow.id);
    await fixture.read("hset", fixture.flow.summary, "members_open", "1");
    expect(await fixture.done(command)).toEqual(["changed"]);
    expect(await fixture.read("exists", fixture.flow.purged)).toBe(0);
  });

  test("a member that retains its flow is remembered until the flow has another end", async () => {
    const fixture = newFixture();
    const [, , other] = await endedFlow(fixture);
    if (other === undefined) throw new Error("no member");
    const later = Date.now() + 3_600_000;
    expect(await begin(fixture, later)).toEqual(["kept"]);
    expect((await fixture.hash(fixture.flow.summary)).retained_until).toBe(String(later));
    await fixture.done(replayExecution(other, fixture.index, fixture.lane, [], 0));
    expect(await fixture.hash(fixture.flow.summary)).not.toHaveProperty("retained_until");
    await fixture.finish(other, "success");
    await expectRefusal(
      fixture,
      { ...beginPurge(fixture.flow, fixture.index, await scoreOf(fixture), Number.NaN) },
      "invalid_input",
      "retained_until",
    );
    expect(await begin(fixture, 1)).toEqual(["begun"]);
  });

  test("an execution is kept while it is open, while its flow is not purged, and for another flow", async () => {
    const fixture = newFixture();
    const members = await endedFlow(fixture);
    const [parent] = members as [ExecKeys];
    const before = await fixture.snapshot();
    expect(await fixture.done(purgeMember(fixture.flow, parent))).toEqual(["kept", fixture.flow.id]);
    expect(await fixture.done(purgeSoloExecution(parent, fixture.lane, 0))).toEqual([
      "kept",
      fixture.flow.id,
    ]);
    expect(await fixture.snapshot()).toEqual(before);
    const open = await fixture.execution();
    await begin(fixture);
    await expectRefusal(fixture, purgeMember(fixture.flow, open), "execution_not_terminal");
    await fixture.finish(open, "success");
    await fixture.read("hset", open.core, "flow_id", "00000000-0000-0000-0000-000000000000");
    expect(await fixture.done(purgeMember(fixture.flow, open))).toMatchObject(["kept", {}]);
    await expectRefusal(fixture, purgeMember(fixture.flow, parent, 0), "invalid_input", "limit");
  });

  test("many edges are deleted in several calls", async () => {
    const fixture = newFixture();
    const child = await fixture.member();
    for (let count = 0; count < 5; count += 1) {
      const parent = await fixture.member();
      await fixture.edge(parent, child);
      await fixture.cancel(parent);
    }
    await fixture.cancel(child);
    await begin(fixture);
    expect(await fixture.done(purgeMember(fixture.flow, child, 2))).toEqual(["more"]);
    expect(await fixture.done(purgeMember(fixture.flow, child, 2))).toEqual(["more"]);
    expect(await fixture.read("exists", child.core)).toBe(1);
    expect(await fixture.done(purgeMember(fixture.flow, child, 2))).toEqual(["purged"]);
    expect((await keys(fixture)).filter((key) => key.includes(`:edge:`) || key.includes(":dep:"))).toEqual(
      [],
    );
  });

  test("an execution outside any flow goes after the retention, or after its own if that is longer", async () => {
    const fixture = newFixture();
    const hour = 3_600_000;
    const policyJson = JSON.stringify({ stream_policy: { retention_ttl_ms: 2 * hour } });
    const [short, long] = [await fixture.execution(), await fixture.execution({ policyJson })];
    for (const one of [short, long]) {
      await fixture.finish(one, "success", "a result");
      await litter(fixture, one);
      await fixture.read("hset", one.core, "completed_at", String(Date.now() - 1.5 * hour));
    }
    const purge = (one: ExecKeys, ms: number) => fixture.done(purgeSoloExecution(one, fixture.lane, ms));
    expect(await purge(short, 2 * hour)).toEqual(["kept", ""]);
    expect(await purge(short, hour)).toEqual(["purged"]);
    expect(await purge(long, hour)).toEqual(["kept", ""]);
    await fixture.read("hset", long.core, "completed_at", String(Date.now() - 3 * hour));
    expect(await purge(long, hour)).toEqual(["purged"]);
    const left = (await keys(fixture)).filter((key) => key.includes(short.id) || key.includes(long.id));
    expect(left.filter((key) => !key.includes(":resent:"))).toEqual([]);
    expect(await fixture.read("zcard", fixture.index.lane(fixture.lane).terminal)).toBe(0);
  });

  test("an execution whose record is gone loses the rest of its keys", async () => {
    const fixture = newFixture();
    const gone = await fixture.execution({ payload: "in" });
    await fixture.finish(gone, "success", "a result");
    await fixture.read("del", gone.core);
    expect(await fixture.done(purgeSoloExecution(gone, fixture.lane, 3_600_000))).toEqual(["purged"]);
    expect(await keys(fixture)).toEqual([]);
  });

  test("the end of a flow is unsent until it is confirmed, and confirming an earlier end changes nothing", async () => {
    const fixture = newFixture();
    const [, , other] = await endedFlow(fixture);
    if (other === undefined) throw new Error("no member");
    const unsent = () => fixture.read("zscore", fixture.index.flowEndsUnsent, fixture.flow.id);
    const endedAt = await scoreOf(fixture);
    expect(await unsent()).toBe(String(endedAt));
    expect(await fixture.done(confirmFlowEnd(fixture.flow, fixture.index, endedAt - 1))).toEqual(["changed"]);
    await fixture.done(replayExecution(other, fixture.index, fixture.lane, [], 0));
    expect(await unsent()).toBeNull();
    await fixture.finish(other, "success");
    await fixture.read("zadd", fixture.index.flowEndsUnsent, endedAt + 1, fixture.flow.id);
    expect(await fixture.done(confirmFlowEnd(fixture.flow, fixture.index, endedAt))).toEqual(["changed"]);
    expect(await fixture.done(confirmFlowEnd(fixture.flow, fixture.index, endedAt + 1))).toEqual([
      "confirmed",
    ]);
    expect(await unsent()).toBeNull();
  });
});

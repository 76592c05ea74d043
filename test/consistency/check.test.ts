import { describe, expect, test } from "vitest";
import { checkConsistency } from "#shared/consistency/check.ts";
import { describeFinding, type Finding } from "#shared/consistency/finding.ts";
import type { ConsistencyPorts } from "#shared/consistency/read.ts";
import type { ValkeyCommand } from "#shared/contract/command.ts";
import { cancelFlow } from "#shared/contract/graph.ts";
import { type ExecKeys, IndexKeys } from "#shared/contract/keys.ts";
import { markLeaseExpiredIfDue, renewLease, revokeLease } from "#shared/contract/upkeep.ts";
import { fixturesOn } from "#test/support/expectations.ts";
import { type FlowFixture, WORKER } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS_14, DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

const FUTURE = 3_000_000_000_000;

function check(fixture: FlowFixture, ports: ConsistencyPorts = fixture): Promise<Finding[]> {
  return checkConsistency(ports, { partition: fixture.flow.partition, settleMs: 0 });
}

/** A flow with an execution in every state. */
async function populated(fixture: FlowFixture) {
  const [root, child, second] = [await fixture.member(), await fixture.member(), await fixture.member()];
  const edge = await fixture.edge(root, child);
  const late = await fixture.edge(second, child);
  await fixture.finish(root, "success", "a result");
  await fixture.done(fixture.resolution(edge, "success"));
  const skipped = await fixture.member();
  const failing = await fixture.member({ priority: 7 });
  const lost = await fixture.edge(failing, skipped);
  await fixture.finish(failing, "failed");
  await fixture.done(fixture.resolution(lost, "failed"));
  const delayed = await fixture.member({ delayUntil: FUTURE });
  const retried = await fixture.member({ deadlineAt: FUTURE });
  await fixture.fail(retried, await fixture.claim(retried), '{"max_retries":1}');
  const active = await fixture.member({ deadlineAt: FUTURE });
  const lease = await fixture.claim(active);
  const renewed = await fixture.member();
  await fixture.done(
    renewLease(fixture.target(renewed), await fixture.claim(renewed), { ttlMs: 90_000, graceMs: 5_000 }),
  );
  const expired = await fixture.member();
  await fixture.claim(expired);
  await expire(fixture, expired);
  const revoked = await fixture.member();
  await fixture.claim(revoked);
  await fixture.done(revokeLease(fixture.target(revoked), WORKER.instanceId, "", "test"));
  const cancelled = await fixture.member();
  await fixture.cancel(cancelled);
  const solo = await fixture.execution();
  return { root, child, second, edge, late, skipped, delayed, active, lease, expired, revoked, solo };
}

type Populated = Awaited<ReturnType<typeof populated>>;

/** Lets a lease run out, and marks it. */
async function expire(fixture: FlowFixture, keys: ExecKeys): Promise<void> {
  const { active } = fixture.index.lane(fixture.lane);
  await fixture.read("hset", keys.core, "lease_expires_at", "1000");
  await fixture.read("hset", keys.leaseCurrent, "expires_at", "1000");
  await fixture.read("zadd", fixture.index.leaseExpiry, "1000", keys.id);
  await fixture.read("zadd", active, "1000", keys.id);
  await fixture.done(markLeaseExpiredIfDue(fixture.target(keys)));
}

/** A change that makes the flow inconsistent, and the findings that it must cause. */
interface Corruption {
  readonly title: string;
  readonly change: (
    fixture: FlowFixture,
    flow: Populated,
  ) => readonly [name: string, ...args: (string | number)[]];
  readonly expected: (
    fixture: FlowFixture,
    flow: Populated,
  ) => readonly (readonly [kind: string, key: string, member: string])[];
}

const lane = (fixture: FlowFixture) => fixture.index.lane(fixture.lane);

const CORRUPTIONS: readonly Corruption[] = [
  {
    title: "an eligible execution that is in no index",
    change: (fixture, { solo }) => ["zrem", lane(fixture).eligible, solo.id],
    expected: (fixture, { solo }) => [["missing_entry", lane(fixture).eligible, solo.id]],
  },
  {
    title: "an eligible execution with the score of another priority",
    change: (fixture, { solo }) => ["zadd", lane(fixture).eligible, 1, solo.id],
    expected: (fixture, { solo }) => [["wrong_score", lane(fixture).eligible, solo.id]],
  },
  {
    title: "a delayed execution that is due at another time",
    change: (fixture, { delayed }) => ["zadd", lane(fixture).delayed, FUTURE + 1, delayed.id],
    expected: (fixture, { delayed }) => [["wrong_score", lane(fixture).delayed, delayed.id]],
  },
  {
    title: "an ended execution that is also active",
    change: (fixture, { root }) => ["zadd", lane(fixture).active, 1, root.id],
    expected: (fixture, { root }) => [["stale_entry", lane(fixture).active, root.id]],
  },
  {
    title: "an ended execution that keeps its attempt timeout",
    change: (fixture, { root }) => ["zadd", fixture.index.attemptTimeout, FUTURE, root.id],
    expected: (fixture, { root }) => [["stale_entry", fixture.index.attemptTimeout, root.id]],
  },
  {
    title: "an ended execution that keeps its deadline",
    change: (fixture, { root }) => ["zadd", fixture.index.executionDeadline, FUTURE, root.id],
    expected: (fixture, { root }) => [["stale_entry", fixture.index.executionDeadline, root.id]],
  },
  {
    title: "an entry in another lane",
    change: (fixture, { solo }) => [
      "zadd",
      lane(fixture).eligible.replace(":eligible", " 2:eligible"),
      1,
      solo.id,
    ],
    expected: (fixture, { solo }) => [
      ["stale_entry", lane(fixture).eligible.replace(":eligible", " 2:eligible"), solo.id],
    ],
  },
  {
    title: "an entry without a record",
    change: (fixture) => [
      "zadd",
      lane(fixture).terminal,
      1,
      `{fp:${fixture.flow.partition}}:${fixture.flow.id}`,
    ],
    expected: (fixture) => [
      ["stale_entry", lane(fixture).terminal, `{fp:${fixture.flow.partition}}:${fixture.flow.id}`],
    ],
  },
  {
    title: "an entry that is no execution",
    change: (fixture) => ["zadd", lane(fixture).delayed, 1, "nonsense"],
    expected: (fixture) => [["stale_entry", lane(fixture).delayed, "nonsense"]],
  },
  {
    title: "a lease without an expiry",
    change: (fixture, { active }) => ["zrem", fixture.index.leaseExpiry, active.id],
    expected: (fixture, { active }) => [["missing_entry", fixture.index.leaseExpiry, active.id]],
  },
  {
    title: "an expired lease that nothing can find any more",
    change: (fixture, { expired }) => ["zrem", fixture.index.leaseExpiry, expired.id],
    expected: (fixture, { expired }) => [["missing_entry", fixture.index.leaseExpiry, expired.id]],
  },
  {
    title: "a revoked lease that expires",
    change: (fixture, { revoked }) => ["zadd", fixture.index.leaseExpiry, 1, revoked.id],
    expected: (fixture, { revoked }) => [["stale_entry", fixture.index.leaseExpiry, revoked.id]],
  },
  {
    title: "a lease in the set of another worker",
    change: (fixture, { active }) => ["sadd", fixture.index.workerLeases("other"), active.id],
    expected: (fixture, { active }) => [["stale_entry", fixture.index.workerLeases("other"), active.id]],
  },
  {
    title: "a lease that is not in the set of its worker",
    change: (fixture, { active }) => ["srem", fixture.index.workerLeases(WORKER.instanceId), active.id],
    expected: (fixture, { active }) => [
      ["missing_entry", fixture.index.workerLeases(WORKER.instanceId), active.id],
    ],
  },
  {
    title: "a lease of another epoch",
    change: (_, { active }) => ["hset", active.leaseCurrent, "lease_epoch", 9],
    expected: (_, { active }) => [["wrong_field", active.leaseCurrent, "lease_epoch"]],
  },
  {
    title: "a lease that is gone before its time",
    change: (_, { active }) => ["del", active.leaseCurrent],
    expected: (_, { active }) => [["missing_key", active.leaseCurrent, ""]],
  },
  {
    title: "a lease of an execution that is not running",
    change: (_, { solo }) => ["hset", solo.leaseCurrent, "lease_id", "left"],
    expected: (_, { solo }) => [["unexpected_key", solo.leaseCurrent, ""]],
  },
  {
    title: "an execution that is not listed",
    change: (fixture, { solo }) => ["srem", fixture.index.allExecutions, solo.id],
    expected: (fixture, { solo }) => [["missing_entry", fixture.index.allExecutions, solo.id]],
  },
  {
    title: "a record in an unknown phase",
    change: (_, { solo }) => ["hset", solo.core, "lifecycle_phase", "asleep"],
    expected: (_, { solo }) => [["invalid_record", solo.core, ""]],
  },
  {
    title: "a member that its flow does not list",
    change: (fixture, { active }) => ["srem", fixture.flow.members, active.id],
    expected: (fixture, { active }) => [
      ["missing_entry", fixture.flow.members, active.id],
      ["wrong_count", fixture.flow.core, "node_count"],
      ["wrong_count", fixture.flow.summary, "members_open"],
      ["wrong_count", fixture.flow.summary, "total_members"],
    ],
  },
  {
    title: "a flow that lists an execution of no flow",
    change: (fixture, { solo }) => ["sadd", fixture.flow.members, solo.id],
    expected: (fixture, { solo }) => [
      ["wrong_field", solo.core, "flow_id"],
      ["wrong_count", fixture.flow.core, "node_count"],
      ["wrong_count", fixture.flow.summary, "members_open"],
      ["wrong_count", fixture.flow.summary, "total_members"],
    ],
  },
  {
    title: "an open flow that is not in the flow index",
    change: (fixture) => ["srem", fixture.index.flowIndex, fixture.flow.id],
    expected: (fixture) => [["missing_entry", fixture.index.flowIndex, fixture.flow.id]],
  },
  {
    title: "a flow index with a flow that does not exist",
    change: (fixture, { solo }) => [
      "sadd",
      fixture.index.flowIndex,
      solo.id.slice(solo.id.indexOf(":", 4) + 1),
    ],
    expected: (fixture, { solo }) => [
      ["stale_entry", fixture.index.flowIndex, solo.id.slice(solo.id.indexOf(":", 4) + 1)],
    ],
  },
  {
    title: "a flow that does not exist, listed by a time of creation",
    change: (fixture, { solo }) => [
      "zadd",
      fixture.index.flowsCreated,
      1,
      solo.id.slice(solo.id.indexOf(":", 4) + 1),
    ],
    expected: (fixture, { solo }) => [
      ["stale_entry", fixture.index.flowsCreated, solo.id.slice(solo.id.indexOf(":", 4) + 1)],
    ],
  },
  {
    title: "an edge that its upstream does not list",
    change: (fixture, { second, late }) => ["srem", fixture.flow.outgoing(second.id), late.id],
    expected: (fixture, { second, late }) => [
      ["missing_entry", fixture.flow.outgoing(second.id), late.id],
      ["wrong_count", fixture.flow.core, "edge_count"],
    ],
  },
  {
    title: "an edge that its downstream does not list",
    change: (fixture, { child, late }) => ["srem", fixture.flow.incoming(child.id), late.id],
    expected: (fixture, { child, late }) => [["missing_entry", fixture.flow.incoming(child.id), late.id]],
  },
  {
    title: "an edge without a record",
    change: (fixture, { late }) => ["del", fixture.flow.edge(late.id)],
    expected: (fixture, { child, second, late }) => [
      ["missing_key", fixture.flow.edge(late.id), ""],
      ["stale_entry", fixture.flow.outgoing(second.id), late.id],
      ["stale_entry", fixture.flow.incoming(child.id), late.id],
    ],
  },
  {
    title: "a count of unsatisfied edges that is too high",
    change: (_, { child }) => ["hset", child.depsMeta, "unsatisfied_required_count", 2],
    expected: (_, { child }) => [["wrong_count", child.depsMeta, "unsatisfied_required_count"]],
  },
  {
    title: "a count of impossible edges that is too low",
    change: (_, { skipped }) => ["hset", skipped.depsMeta, "impossible_required_count", 0],
    expected: (_, { skipped }) => [["wrong_count", skipped.depsMeta, "impossible_required_count"]],
  },
  {
    title: "an open edge that is not listed as unresolved",
    change: (_, { child, late }) => ["srem", child.depsUnresolved, late.id],
    expected: (_, { child, late }) => [["missing_entry", child.depsUnresolved, late.id]],
  },
  {
    title: "a resolved edge that is listed as unresolved",
    change: (_, { child, edge }) => ["sadd", child.depsUnresolved, edge.id],
    expected: (_, { child, edge }) => [["stale_entry", child.depsUnresolved, edge.id]],
  },
  {
    title: "a child that nothing can release",
    change: (_, { child, late }) => ["hset", child.dep(late.id), "state", "satisfied"],
    expected: (fixture, { child, late }) => [
      ["wrong_count", child.depsMeta, "unsatisfied_required_count"],
      ["stale_entry", child.depsUnresolved, late.id],
      ["stuck", child.core, ""],
      ...(fixture.edition === 14
        ? [["wrong_count", fixture.flow.edgeGroup(child.id), "succeeded"] as const]
        : []),
    ],
  },
  {
    title: "a flow with members to cancel that no one looks for",
    change: (fixture, { solo }) => ["sadd", fixture.flow.pendingCancels, solo.id],
    expected: (fixture) => [["missing_entry", fixture.index.cancelBacklog, fixture.flow.id]],
  },
  {
    title: "a flow without members to cancel in the backlog",
    change: (fixture) => ["zadd", fixture.index.cancelBacklog, 1, fixture.flow.id],
    expected: (fixture) => [["stale_entry", fixture.index.cancelBacklog, fixture.flow.id]],
  },
  {
    title: "a count of open members that is too low",
    change: (fixture) => ["hset", fixture.flow.summary, "members_open", 1],
    expected: (fixture) => [["wrong_count", fixture.flow.summary, "members_open"]],
  },
  {
    title: "a member that is counted as failed twice",
    change: (fixture) => ["hincrby", fixture.flow.summary, "members_failed", 1],
    expected: (fixture) => [["wrong_count", fixture.flow.summary, "members_failed"]],
  },
  {
    title: "a flow with open members that counts as ended",
    change: (fixture) => ["zadd", fixture.index.flowsEnded, 1, fixture.flow.id],
    expected: (fixture) => [["stale_entry", fixture.index.flowsEnded, fixture.flow.id]],
  },
  {
    title: "a group to drain that is not marked",
    change: (fixture, { child }) => [
      "sadd",
      fixture.index.pendingCancelGroups,
      `${fixture.flow.id}|${child.id}`,
    ],
    expected: (fixture, { child }) => [
      ["stale_entry", fixture.index.pendingCancelGroups, `${fixture.flow.id}|${child.id}`],
    ],
  },
];

const identities = (findings: readonly Finding[]) =>
  findings.map(({ kind, key, member }) => [kind, key, member]);

describe.each(DEPLOYMENTS_OF_BOTH)("the consistency check ($name, $edition KEYS)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  test("finds nothing in a flow with executions in every state", async () => {
    const fixture = newFixture();
    await populated(fixture);
    expect(await check(fixture)).toEqual([]);
    await fixture.done(cancelFlow(fixture.flow, fixture.index, "test", "cancel_all", 0));
    expect(await check(fixture)).toEqual([]);
  });

  test("finds each kind of inconsistency, and nothing else", async () => {
    const fixture = newFixture();
    const flow = await populated(fixture);
    for (const { title, change, expected } of CORRUPTIONS) {
      const [name, ...args] = change(fixture, flow);
      const key = String(args[0]);
      const intact = await fixture.read("dump", key);
      const copy = `${key}:copy`;
      await fixture.read("copy", key, copy);
      await fixture.read(name, ...args);
      expect(new Set(identities(await check(fixture))), title).toEqual(new Set(expected(fixture, flow)));
      await fixture.read("del", key);
      if (intact !== null) await fixture.read("rename", copy, key);
    }
    expect(await check(fixture)).toEqual([]);
  });

  test("reports nothing that another client changes while it reads", async () => {
    const fixture = newFixture();
    const tasks = [await fixture.member(), await fixture.member(), await fixture.member()];
    let changes = 0;
    /** Moves an execution on between any two reads. */
    const moving: ConsistencyPorts = {
      valkey: {
        primaries: () => fixture.valkey.primaries(),
        pipelined: async (commands: readonly ValkeyCommand[]) => {
          const task = tasks[changes % tasks.length];
          changes += 1;
          if (task !== undefined) {
            const state = await fixture.read("hget", task.core, "public_state");
            if (state === "waiting") await fixture.fail(task, await fixture.claim(task), '{"max_retries":1}');
            else if (state === "delayed") await fixture.cancel(task);
            else tasks[tasks.indexOf(task)] = await fixture.member();
          }
          return fixture.valkey.pipelined(commands);
        },
      },
    };
    expect(await check(fixture, moving)).toEqual([]);
    expect(changes).toBeGreaterThan(5);
  });

  test("reads large sets in pages", async () => {
    const fixture = newFixture();
    await fixture.createFlow();
    const child = await fixture.member();
    const WIDTH = 1_100;
    const strays = Array.from({ length: WIDTH }, (_, number) => `stray ${number}`);
    await fixture.read("sadd", child.depsUnresolved, ...strays);
    await fixture.read("zadd", lane(fixture).delayed, ...strays.flatMap((stray, score) => [score, stray]));
    const findings = await check(fixture);
    expect(new Set(identities(findings).map(String))).toEqual(
      new Set(
        [child.depsUnresolved, lane(fixture).delayed].flatMap((key) =>
          strays.map((stray) => String(["stale_entry", key, stray])),
        ),
      ),
    );
  });

  test("reports an edge that is staged but not applied once the flow has not changed for a while", async () => {
    const fixture = newFixture();
    const [upstream, child] = [await fixture.member(), await fixture.member()];
    const edge = fixture.newEdge(upstream, child);
    await fixture.stage(edge);
    const { partition } = fixture.flow;
    expect(await checkConsistency(fixture, { partition, settleMs: 3_600_000 })).toEqual([]);
    const findings = await check(fixture);
    expect(identities(findings)).toEqual([["unapplied_edge", fixture.flow.incoming(child.id), edge.id]]);
    expect(findings.map(describeFinding).join()).toContain("submit the flow again");
  });

  test("finds an ended flow that is not listed as ended", async () => {
    const fixture = newFixture();
    await fixture.finish(await fixture.member(), "success");
    expect(await check(fixture)).toEqual([]);
    await fixture.read("zrem", fixture.index.flowsEnded, fixture.flow.id);
    expect(identities(await check(fixture))).toEqual([
      ["missing_entry", fixture.index.flowsEnded, fixture.flow.id],
    ]);
  });

  test("skips the keys of a flow that is being purged", async () => {
    const fixture = newFixture();
    const member = await fixture.member();
    await fixture.read("set", fixture.flow.purged, "1");
    await fixture.read("del", fixture.flow.members);
    expect(await check(fixture)).toEqual([]);
    await fixture.read("del", fixture.flow.purged);
    expect(identities(await check(fixture))).toEqual([
      ["missing_entry", fixture.flow.members, member.id],
      ["wrong_count", fixture.flow.core, "node_count"],
      ["wrong_count", fixture.flow.summary, "members_open"],
      ["wrong_count", fixture.flow.summary, "total_members"],
    ]);
  });

  test("looks only at the keys of the partition that it is given", async () => {
    const [fixture, other] = [newFixture(), newFixture()];
    await fixture.member();
    await other.read("zadd", new IndexKeys(other.flow.partition).leaseExpiry, 1, "nonsense");
    expect(await check(fixture)).toEqual([]);
    expect(await check(other)).toHaveLength(1);
  });
});

describe.each(DEPLOYMENTS_14)("the consistency check of edge groups ($name)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  test("accepts decided groups, and finds counts that differ from the dep records", async () => {
    const fixture = newFixture();
    const [winner, sibling, child] = [await fixture.member(), await fixture.member(), await fixture.member()];
    await fixture.group(child, { variant: "any_of", onSatisfied: "cancel_remaining" });
    const edge = await fixture.edge(winner, child);
    await fixture.edge(sibling, child);
    expect(await check(fixture)).toEqual([]);
    await fixture.finish(winner, "success");
    await fixture.done(fixture.resolution(edge, "success"));
    expect(await check(fixture)).toEqual([]);
    const group = fixture.flow.edgeGroup(child.id);
    for (const [field, value] of [
      ["n", 3],
      ["succeeded", 0],
      ["failed", 1],
    ] as const) {
      const before = String(await fixture.read("hget", group, field));
      await fixture.read("hset", group, field, value);
      expect(identities(await check(fixture)), field).toEqual([["wrong_count", group, field]]);
      await fixture.read("hset", group, field, before);
    }
  });
});

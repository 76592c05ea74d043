import { afterAll, describe, expect, test } from "vitest";
import { submitFlow } from "#sdk/submission/submit.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { markLeaseExpiredIfDue } from "#shared/contract/upkeep.ts";
import { environmentFor, parseOutput, sluice } from "#test/cli/support.ts";
import { workflowOf } from "#test/submission/fixture.ts";
import { fixturesOn } from "#test/support/expectations.ts";
import { type FlowFixture, newFlowId, ROUTER } from "#test/support/flow-fixture.ts";
import { TEST_PARTITIONS } from "#test/support/partition-allocator.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

const MINUTES = 60_000;
const FUTURE = 4_000_000_000_000;

/** Lets executions, and their flow, look as if they had not changed for a time. */
async function age(fixture: FlowFixture, members: readonly ExecKeys[], ms: number): Promise<void> {
  const at = Date.now() - ms;
  await fixture.read("hset", fixture.flow.core, "created_at", at, "last_mutation_at", at);
  for (const { core } of members) {
    await fixture.read("hset", core, "last_mutation_at", at, "last_transition_at", at);
  }
}

describe.each(DEPLOYMENTS)("sluice status on $name", (deployment) => {
  const newFixture = fixturesOn(deployment);
  const environment = { ...environmentFor(deployment), FLOW_PARTITIONS: String(TEST_PARTITIONS) };
  const valkey = deployment.connect();
  afterAll(() => valkey.close());

  async function statusOf({ flow }: FlowFixture, ...args: string[]) {
    const { code, stdout, stderr } = await sluice(["status", flow.id, "--json", ...args], { environment });
    expect(stderr).toBe("");
    return { ...parseOutput("status", stdout), code };
  }

  test("counts the members in each state, and finds the oldest of each", async () => {
    const fixture = newFixture();
    const [first, second, child] = [await fixture.member(), await fixture.member(), await fixture.member()];
    await fixture.edge(first, child);
    const active = await fixture.member();
    await fixture.claim(active);
    await fixture.finish(await fixture.member(), "failed");
    await fixture.read("hset", second.core, "last_transition_at", Date.now() - MINUTES);
    const found = await statusOf(fixture);
    expect(found).toMatchObject({
      flow_id: fixture.flow.id,
      state: "running",
      members: { total: 5, waiting: 2, waiting_children: 1, active: 1, failed: 1, completed: 0 },
      stuck_members: [],
      stuck_member_count: 0,
      unexamined: 0,
      code: 0,
    });
    const oldest = found.oldest.map((one: { state: string; execution_id: string }) => [
      one.state,
      one.execution_id,
    ]);
    expect(new Map(oldest)).toEqual(
      new Map([
        ["waiting", second.id],
        ["waiting_children", child.id],
        ["active", active.id],
      ]),
    );
    expect(oldest[0]).toEqual(["waiting", second.id]);
  });

  test("names a member whose upstreams have all ended, once its message must be missing", async () => {
    const fixture = newFixture();
    const [first, second, child] = [await fixture.member(), await fixture.member(), await fixture.member()];
    const edge = await fixture.edge(first, child);
    await fixture.edge(second, child);
    const running = await fixture.member();
    await fixture.finish(first, "success");
    await fixture.finish(second, "failed");
    await fixture.done(fixture.resolution(edge, "success"));
    expect(await statusOf(fixture)).toMatchObject({ stuck_members: [], code: 0 });
    await age(fixture, [first, second, child], 5 * MINUTES);
    const found = await statusOf(fixture);
    expect(found).toMatchObject({
      stuck_members: [{ execution_id: child.id, reason: "upstreams_ended", state: "waiting_children" }],
      stuck_member_count: 1,
      code: 1,
    });
    expect(found).not.toHaveProperty("stuck");
    await fixture.finish(running, "success");
    await age(fixture, [first, second, child, running], 5 * MINUTES);
    expect(await statusOf(fixture)).toMatchObject({ stuck: "nothing_can_move", code: 1 });
  });

  test("does not name a member that waits for an upstream that has not ended", async () => {
    const fixture = newFixture();
    const [first, second, child] = [await fixture.member(), await fixture.member(), await fixture.member()];
    await fixture.edge(first, child);
    await fixture.edge(second, child);
    await fixture.finish(first, "success");
    await age(fixture, [first, second, child], 5 * MINUTES);
    expect(await statusOf(fixture)).toMatchObject({ stuck_members: [], code: 0 });
  });

  test("names lost leases, missed delays, and executions that no worker claims", async () => {
    const fixture = newFixture();
    const [expired, delayed, unclaimed] = [
      await fixture.member(),
      await fixture.member({ delayUntil: FUTURE }),
      await fixture.member(),
    ];
    await fixture.claim(expired);
    await age(fixture, [unclaimed], 90 * MINUTES);
    expect(await statusOf(fixture)).toMatchObject({
      stuck_members: [{ execution_id: unclaimed.id, reason: "unclaimed" }],
    });
    expect(await statusOf(fixture, "--unchanged-for", "2h")).toMatchObject({ stuck_member_count: 0 });
    await fixture.read("hset", expired.core, "lease_expires_at", "1000");
    await fixture.read("hset", delayed.core, "delay_until", Date.now() - 5 * MINUTES);
    const reasons = async () =>
      new Map(
        (await statusOf(fixture)).stuck_members.map((one: { execution_id: string; reason: string }) => [
          one.execution_id,
          one.reason,
        ]),
      );
    const expected = new Map([
      [unclaimed.id, "unclaimed"],
      [expired.id, "lease_expired"],
      [delayed.id, "delay_over"],
    ]);
    expect(await reasons()).toEqual(expected);
    await fixture.done(markLeaseExpiredIfDue(fixture.target(expired)));
    expect(await reasons()).toEqual(expected);
  });

  test("lists twenty stuck members, and counts all", async () => {
    const fixture = newFixture();
    const members: ExecKeys[] = [];
    for (let number = 0; number < 25; number += 1) members.push(await fixture.member());
    await age(fixture, members, 90 * MINUTES);
    const found = await statusOf(fixture);
    expect(found.stuck_members).toHaveLength(20);
    expect(found).toMatchObject({ stuck_member_count: 25, stuck: "unchanged" });
  });

  test("shows how a flow ended", async () => {
    const fixture = newFixture();
    await fixture.finish(await fixture.member(), "success");
    await fixture.cancel(await fixture.member());
    const found = await statusOf(fixture);
    expect(found).toMatchObject({
      state: "failed",
      members: { total: 2, completed: 1, cancelled: 1 },
      oldest: [],
      code: 0,
    });
    expect(found.ended_at).toBeGreaterThanOrEqual(found.created_at);
  });

  test("prints names of tasks for a person", async () => {
    const flowId = newFlowId();
    const completions = { send: () => Promise.resolve([]) };
    await submitFlow({ valkey, router: ROUTER, completions }, workflowOf("fetch>load"), { flowId });
    const { code, stdout } = await sluice(["status", flowId], { environment });
    expect(code).toBe(0);
    const lines = stdout.split("\n");
    expect(lines[0]).toBe(`test  ${flowId}`);
    expect(lines[1]).toMatch(/^running, created \S+Z, changed .+ ago$/);
    expect(stdout).toMatch(/\nstate +tasks\nwaiting +1\nwaiting_children +1\ntotal +2\n/);
    expect(stdout).toMatch(/\nwaiting +.+ ago +fetch +\{fp:\d+\}:\S+ +\S+\n/);
    expect(stdout).not.toContain("stuck");
  });

  test("prints what is stuck, and the command that tells why", async () => {
    const fixture = newFixture();
    const member = await fixture.member();
    await age(fixture, [member], 90 * MINUTES);
    const { code, stdout } = await sluice(["status", fixture.flow.id], { environment });
    expect(code).toBe(1);
    expect(stdout).toContain("\nstuck: unchanged\n");
    expect(stdout).toMatch(/\nno worker claims it +1 h 30 min ago +\{fp:/);
    expect(stdout).toContain(`\nwhy: sluice explain '${member.id}'\n`);
  });

  test.each([
    ["not-a-flow", "expected a flow id"],
    ["00000000-0000-4000-8000-000000000000", "does not exist, or was deleted after its retention"],
  ])("refuses %s", async (flow, message) => {
    const { code, stderr } = await sluice(["status", flow], { environment });
    expect(code).toBe(2);
    expect(stderr).toContain(message);
  });
});

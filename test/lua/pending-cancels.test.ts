import { describe, expect, test } from "vitest";
import {
  ackCancelMember,
  drainSiblingCancelGroup,
  reconcileSiblingCancelGroup,
} from "#shared/contract/upkeep.ts";
import { expectRefusal, fixturesOn } from "#test/support/expectations.ts";
import { DEPLOYMENTS_14, DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

describe.each(DEPLOYMENTS_OF_BOTH)("ff_ack_cancel_member ($name, $edition KEYS)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  test("removes the member, and the flow with its last one; repeating changes nothing", async () => {
    const fixture = newFixture();
    const { flow, index } = fixture;
    const [first, second] = [fixture.newExecution().id, fixture.newExecution().id];
    await fixture.read("sadd", flow.pendingCancels, first, second);
    await fixture.read("zadd", index.cancelBacklog, 1, flow.id);
    await fixture.done(ackCancelMember(flow, index, first));
    expect(await fixture.read("smembers", flow.pendingCancels)).toEqual([second]);
    expect(await fixture.read("zscore", index.cancelBacklog, flow.id)).toBe("1");
    for (let time = 0; time < 2; time += 1) {
      await fixture.done(ackCancelMember(flow, index, second));
      expect(await fixture.read("exists", flow.pendingCancels)).toBe(0);
      expect(await fixture.read("zscore", index.cancelBacklog, flow.id)).toBeNull();
    }
  });
});

describe.each(DEPLOYMENTS_14)("siblings of a decided group ($name)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  /** A child whose group of two is decided by the first success: the second upstream is owed a cancellation. */
  async function decided() {
    const fixture = newFixture();
    await fixture.createFlow();
    const [winner, sibling, child] = [await fixture.member(), await fixture.member(), await fixture.member()];
    await fixture.group(child, { variant: "any_of", onSatisfied: "cancel_remaining" });
    const edge = await fixture.edge(winner, child);
    await fixture.edge(sibling, child);
    await fixture.finish(winner, "success");
    await fixture.done(fixture.resolution(edge, "success"));
    const { flow, index } = fixture;
    expect(await fixture.read("smembers", index.pendingCancelGroups)).toEqual([`${flow.id}|${child.id}`]);
    const pending = async () => ({
      entries: await fixture.read("smembers", index.pendingCancelGroups),
      members: await fixture.read("hget", flow.edgeGroup(child.id), "cancel_siblings_pending_members"),
    });
    return { fixture, sibling, child, pending };
  }

  const DRAINED = { entries: [], members: null };

  test("ff_drain_sibling_cancel_group removes what is owed; repeating changes nothing", async () => {
    const { fixture, child, pending } = await decided();
    const { flow, index } = fixture;
    const drain = () => fixture.done(drainSiblingCancelGroup(flow, index, child.id));
    expect(await drain()).toEqual(["drained", ""]);
    expect(await pending()).toEqual(DRAINED);
    expect(await drain()).toEqual(["already_drained", ""]);
    const absent = fixture.newExecution().id;
    await fixture.read("sadd", index.pendingCancelGroups, `${flow.id}|${absent}`);
    expect(await fixture.done(drainSiblingCancelGroup(flow, index, absent))).toEqual([
      "drained_sans_group",
      "",
    ]);
  });

  test("ff_reconcile_sibling_cancel_group waits for the siblings, then removes the group", async () => {
    const { fixture, sibling, child, pending } = await decided();
    const { flow, index } = fixture;
    const reconcile = (id = child.id) => fixture.done(reconcileSiblingCancelGroup(flow, index, id));
    expect(await reconcile()).toEqual(["no_op", "siblings_running"]);
    await fixture.finish(sibling, "failed");
    expect(await reconcile()).toEqual(["completed_drain", ""]);
    expect(await pending()).toEqual(DRAINED);
    expect(await reconcile()).toEqual(["no_op", "not_in_set"]);
  });

  test("ff_reconcile_sibling_cancel_group removes stale entries, and refuses empty arguments", async () => {
    const { fixture, child } = await decided();
    const { flow, index } = fixture;
    await fixture.read("hset", flow.edgeGroup(child.id), "cancel_siblings_pending_flag", "");
    expect(await fixture.done(reconcileSiblingCancelGroup(flow, index, child.id))).toEqual([
      "sremmed_stale",
      "flag_cleared",
    ]);
    await fixture.read("sadd", index.pendingCancelGroups, `${flow.id}|${child.id}`);
    await fixture.read("del", flow.edgeGroup(child.id));
    expect(await fixture.done(reconcileSiblingCancelGroup(flow, index, child.id))).toEqual([
      "sremmed_stale",
      "missing_edgegroup",
    ]);
    for (const make of [drainSiblingCancelGroup, reconcileSiblingCancelGroup]) {
      const command = make(flow, index, child.id);
      const empty = { ...command, args: [...command.args.slice(0, -1), ""] };
      await expectRefusal(fixture, empty, "invalid_args");
    }
  });
});

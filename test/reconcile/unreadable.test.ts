import { randomUUID } from "node:crypto";
import { describe, expect, it } from "vitest";
import { type LaneId, parseEdgeId, parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { LANES_KEY } from "#shared/contract/keys.ts";
import { sweep } from "#shared/reconcile/sweep.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { ROUTER } from "#test/support/flow-fixture.ts";
import { endedAgo, type Flow, KINDS, MINUTE_MS, standFor } from "#test/support/reconcile.ts";
import { run } from "#test/support/valkey.ts";

const GPU: LaneId = unwrap(parseLaneId("gpu, large"));
const UUID = randomUUID();

/** One thing that makes no sense each. */
const CONFUSIONS: Readonly<Record<string, (flow: Flow) => Promise<unknown>>> = {
  "an edge id that does not parse": (flow) =>
    flow.fixture.read("sadd", flow.keys("child").depsUnresolved, "no edge"),
  "an edge without its dependency record": (flow) =>
    flow.fixture.read("sadd", flow.keys("child").depsUnresolved, UUID),
  "an edge whose upstream id does not parse": (flow) =>
    confusedEdge(flow.fixture, flow.keys("child"), { upstream_execution_id: "{fp:1}:up", flow_id: UUID }),
  "an edge whose flow id does not parse": (flow) =>
    confusedEdge(flow.fixture, flow.keys("child"), {
      upstream_execution_id: flow.keys("up").id,
      flow_id: "flow",
    }),
  "an edge that was resolved": (flow) =>
    confusedEdge(flow.fixture, flow.keys("child"), {
      upstream_execution_id: flow.keys("up").id,
      flow_id: UUID,
      state: "satisfied",
    }),
  "an upstream without a record": async (flow) => {
    const lost = flow.fixture.newExecution();
    await confusedEdge(flow.fixture, flow.keys("child"), { upstream_execution_id: lost.id, flow_id: UUID });
    await flow.fixture.read(
      "hset",
      flow.keys("child").depsMeta,
      "last_dependency_update_at",
      Date.now() - MINUTE_MS,
    );
  },
  "an upstream with an unknown outcome": async (flow) => {
    const odd = await flow.fixture.member();
    await flow.fixture.finish(odd, "success");
    await flow.fixture.read("hset", odd.core, "terminal_outcome", "vanished");
    await confusedEdge(flow.fixture, flow.keys("child"), {
      upstream_execution_id: odd.id,
      flow_id: flow.fixture.flow.id,
    });
  },
  "an index entry that is no execution's id": (flow) =>
    flow.fixture.read("zadd", flow.fixture.index.lane(flow.fixture.lane).blockedDependencies, 1, "execution"),
  "an index entry of another partition": (flow) =>
    flow.fixture.read(
      "zadd",
      flow.fixture.index.lane(flow.fixture.lane).blockedDependencies,
      1,
      `{fp:${(flow.fixture.flow.partition + 1) % 65_536}}:${UUID}`,
    ),
  "an index entry without a record": (flow) =>
    flow.fixture.read(
      "zadd",
      flow.fixture.index.lane(flow.fixture.lane).blockedDependencies,
      1,
      flow.fixture.newExecution().id,
    ),
};

async function confusedEdge(
  fixture: Flow["fixture"],
  child: ReturnType<Flow["keys"]>,
  fields: Record<string, string>,
): Promise<void> {
  const edge = unwrap(parseEdgeId(randomUUID()));
  await fixture.read("sadd", child.depsUnresolved, edge);
  await fixture.read("hset", child.dep(edge), ...Object.entries({ state: "unsatisfied", ...fields }).flat());
}

describe.each(KINDS)("what makes no sense (%s)", (kind) => {
  const stand = standFor(kind);

  it.each(Object.entries(CONFUSIONS))("is counted, told of and left alone: %s", async (_, confuse) => {
    const flow = await stand().submitted("up>child");
    await flow.end("up");
    await confuse(flow);
    const ports = stand().ports([flow]);
    // What is sound is dealt with all the same.
    expect(await sweep(ports)).toMatchObject({ state: "complete", repaired: 1, unreadable: 1, promoted: 0 });
    expect(await stand().sent()).toEqual([flow.keys("up").id]);
    expect(ports.telemetry.warnings).toHaveLength(1);
    expect(ports.telemetry.counts.get(METRICS.recordsUnreadable)).toBe(1);
  });

  it("an upstream without a record is nothing to tell of while its flow is being submitted", async () => {
    const flow = await stand().submitted("up>child");
    await flow.fixture.read("del", flow.keys("up").core);
    const ports = stand().ports([flow]);
    expect(await sweep(ports)).toMatchObject({ unreadable: 0, repaired: 0, scanned: 1 });
  });

  it("warns a bounded number of times, and counts all", async () => {
    const fixture = stand().fixture();
    const entries = Array.from({ length: 300 }, (_, index) => [index, `entry ${index}`]).flat();
    await fixture.read("zadd", fixture.index.lane(fixture.lane).blockedDependencies, ...entries);
    const ports = stand().ports([fixture]);
    expect(await sweep(ports)).toMatchObject({ scanned: 300, unreadable: 300 });
    expect(ports.telemetry.warnings).toHaveLength(20);
  });

  it("a recorded lane that is none is left out, and the others are swept", async () => {
    const fixture = stand().fixture(GPU);
    const up = await fixture.member();
    await fixture.edge(up, await fixture.member());
    await fixture.finish(up, "failed");
    await endedAgo(fixture, up, MINUTE_MS);
    expect(await sweep(stand().ports([fixture]))).toMatchObject({ scanned: 0 });
    await stand().valkey.call("sadd", LANES_KEY, GPU, "a lane\n");
    const ports = stand().ports([fixture]);
    expect(await sweep(ports)).toMatchObject({ scanned: 1, repaired: 1, unreadable: 1 });
    expect(ports.telemetry.warnings[0]?.fields.reason).toContain('"a lane\\n"');
    await stand().queue.drain();
  });

  it("an index that cannot be read does not stop the others, and the sweep is not complete", async () => {
    const flow = await stand().submitted("up>child");
    await flow.end("up");
    const broken = stand().fixture();
    const { blockedDependencies } = ROUTER.indexKeys(broken.flow.partition).lane(broken.lane);
    await run(stand().valkey, broken.flow.partition, "set", blockedDependencies, "not a zset");
    const ports = stand().ports([flow, broken]);
    expect(await sweep(ports)).toMatchObject({ state: "incomplete", unread: 1, repaired: 1 });
    expect(ports.telemetry.counts.get(METRICS.indexesUnread)).toBe(1);
    expect(ports.telemetry.gauges.has(METRICS.sweepDuration)).toBe(false);
    expect(ports.telemetry.warnings[0]?.fields).toMatchObject({ partition: broken.flow.partition });
    await run(stand().valkey, broken.flow.partition, "del", blockedDependencies);
    expect(await sweep(stand().ports([flow, broken]))).toMatchObject({ state: "complete", unread: 0 });
    await stand().queue.drain();
  });
});

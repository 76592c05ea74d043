import { randomUUID } from "node:crypto";
import { describe, expect, it } from "vitest";
import type { ValkeyCommand } from "#shared/contract/command.ts";
import {
  type EdgeId,
  type LaneId,
  parseEdgeId,
  parseExecutionId,
  parseLaneId,
  unwrap,
} from "#shared/contract/ids.ts";
import { LANES_KEY } from "#shared/contract/keys.ts";
import { type ReconcilerPorts, sweep } from "#shared/reconcile/sweep.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { ROUTER } from "#test/support/flow-fixture.ts";
import {
  backdateEnd,
  MINUTE_MS,
  SERVER_KINDS,
  type SubmittedFlow,
  useReconcilerServers,
} from "#test/support/reconcile.ts";
import { run } from "#test/support/valkey.ts";

const GPU: LaneId = unwrap(parseLaneId("gpu, large"));
const UUID = randomUUID();

/** Each writes one invalid record. */
const CORRUPTIONS: Readonly<Record<string, (flow: SubmittedFlow) => Promise<unknown>>> = {
  "an edge id that does not parse": (flow) =>
    flow.fixture.read("sadd", flow.keys("child").depsUnresolved, "no edge"),
  "an edge without its dependency record": (flow) =>
    flow.fixture.read("sadd", flow.keys("child").depsUnresolved, UUID),
  "an edge whose upstream id does not parse": (flow) =>
    addInvalidEdge(flow.fixture, flow.keys("child"), { upstream_execution_id: "{fp:1}:up", flow_id: UUID }),
  "an edge whose flow id does not parse": (flow) =>
    addInvalidEdge(flow.fixture, flow.keys("child"), {
      upstream_execution_id: flow.keys("up").id,
      flow_id: "flow",
    }),
  "an unresolved edge whose record says it is resolved": (flow) =>
    addInvalidEdge(flow.fixture, flow.keys("child"), {
      upstream_execution_id: flow.keys("up").id,
      flow_id: UUID,
      state: "satisfied",
    }),
  "an upstream without a record": async (flow) => {
    const lost = flow.fixture.newExecution();
    await addInvalidEdge(flow.fixture, flow.keys("child"), { upstream_execution_id: lost.id, flow_id: UUID });
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
    await addInvalidEdge(flow.fixture, flow.keys("child"), {
      upstream_execution_id: odd.id,
      flow_id: flow.fixture.flow.id,
    });
  },
  "an index entry that is not an execution id": (flow) =>
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

async function addInvalidEdge(
  fixture: SubmittedFlow["fixture"],
  child: ReturnType<SubmittedFlow["keys"]>,
  fields: Record<string, string>,
): Promise<void> {
  const edge = unwrap(parseEdgeId(randomUUID()));
  await fixture.read("sadd", child.depsUnresolved, edge);
  await fixture.read("hset", child.dep(edge), ...Object.entries({ state: "unsatisfied", ...fields }).flat());
}

describe.each(SERVER_KINDS)("invalid records (%s)", (kind) => {
  const servers = useReconcilerServers(kind);

  it.each(Object.entries(CORRUPTIONS))("are skipped, logged and counted: %s", async (_, corrupt) => {
    const flow = await servers().submit("up>child");
    await flow.end("up");
    await corrupt(flow);
    const ports = servers().ports([flow]);
    // The valid edge of the same child is still processed.
    expect(await sweep(ports)).toMatchObject({ state: "complete", repaired: 1, unreadable: 1, promoted: 0 });
    expect(await servers().drainSent()).toEqual([flow.keys("up").id]);
    expect(ports.telemetry.warnings).toHaveLength(1);
    expect(ports.telemetry.counts.get(METRICS.recordsUnreadable)).toBe(1);
  });

  it("do not include an upstream without a record while its flow is being submitted", async () => {
    const flow = await servers().submit("up>child");
    await flow.fixture.read("del", flow.keys("up").core);
    const ports = servers().ports([flow]);
    expect(await sweep(ports)).toMatchObject({ unreadable: 0, repaired: 0, scanned: 1 });
  });

  it("are logged 20 times at most, and all are counted", async () => {
    const fixture = servers().fixture();
    const entries = Array.from({ length: 300 }, (_, index) => [index, `entry ${index}`]).flat();
    await fixture.read("zadd", fixture.index.lane(fixture.lane).blockedDependencies, ...entries);
    const ports = servers().ports([fixture]);
    expect(await sweep(ports)).toMatchObject({ scanned: 300, unreadable: 300 });
    expect(ports.telemetry.warnings).toHaveLength(20);
  });

  it("do not stop the sweep of other lanes: an invalid lane name", async () => {
    const fixture = servers().fixture(GPU);
    const up = await fixture.member();
    await fixture.edge(up, await fixture.member());
    await fixture.finish(up, "failed");
    await backdateEnd(fixture, up, MINUTE_MS);
    expect(await sweep(servers().ports([fixture]))).toMatchObject({ scanned: 0 });
    await servers().valkey.call("sadd", LANES_KEY, GPU, "a lane\n");
    const ports = servers().ports([fixture]);
    expect(await sweep(ports)).toMatchObject({ scanned: 1, repaired: 1, unreadable: 1 });
    expect(ports.telemetry.warnings[0]?.fields.reason).toContain('"a lane\\n"');
    await servers().queue.drain();
  });

  it("do not stop the sweep of other indexes: a key of the wrong type makes it incomplete", async () => {
    const flow = await servers().submit("up>child");
    await flow.end("up");
    const broken = servers().fixture();
    const { blockedDependencies } = ROUTER.indexKeys(broken.flow.partition).lane(broken.lane);
    await run(servers().valkey, broken.flow.partition, "set", blockedDependencies, "not a zset");
    const ports = servers().ports([flow, broken]);
    expect(await sweep(ports)).toMatchObject({ state: "incomplete", unread: 1, repaired: 1 });
    expect(ports.telemetry.counts.get(METRICS.indexesUnread)).toBe(1);
    expect(ports.telemetry.gauges.has(METRICS.sweepDuration)).toBe(false);
    expect(ports.telemetry.warnings[0]?.fields).toMatchObject({ partition: broken.flow.partition });
    await run(servers().valkey, broken.flow.partition, "del", blockedDependencies);
    expect(await sweep(servers().ports([flow, broken]))).toMatchObject({ state: "complete", unread: 0 });
    await servers().queue.drain();
  });
});

/** Makes one key of an execution, or of its upstream, unreadable. */
const WRONG_TYPES: Readonly<Record<string, (flow: SubmittedFlow, edge: EdgeId) => string>> = {
  "its record": (flow) => flow.keys("broken").core,
  "its counters": (flow) => flow.keys("broken").depsMeta,
  "its set of unresolved edges": (flow) => flow.keys("broken").depsUnresolved,
  "the record of an edge": (flow, edge) => flow.keys("broken").dep(edge),
  "the record of its upstream": (flow) => flow.keys("bad").core,
};

describe.each(SERVER_KINDS)("a key of the wrong type (%s)", (kind) => {
  const servers = useReconcilerServers(kind);

  it.each(Object.entries(WRONG_TYPES))(
    "does not keep the sweep from the rest of its index: %s",
    async (_, keyOf) => {
      const flow = await servers().submit("up>child", "bad>broken");
      for (const task of ["up", "bad"]) await flow.end(task, "failed");
      const [edge] = [await flow.fixture.read("smembers", flow.keys("broken").depsUnresolved)].flat();
      const key = keyOf(flow, unwrap(parseEdgeId(edge)));
      await flow.fixture.read("del", key);
      await flow.fixture.read("lpush", key, "not what it should be");
      const ports = servers().ports([flow]);
      expect(await sweep(ports)).toMatchObject({ state: "complete", repaired: 1, unreadable: 1, unread: 0 });
      expect(await servers().drainSent()).toEqual([flow.keys("up").id]);
      expect(ports.telemetry.warnings[0]?.fields.reason).toContain("WRONGTYPE");
    },
  );

  it("does not starve the executions behind it in a long index", async () => {
    const flow = await servers().submit(
      ...Array.from({ length: 1_000 }, (_, index) => `open>child${index}`),
      "up>last",
    );
    await flow.end("up", "failed");
    const { blockedDependencies } = flow.fixture.index.lane(flow.fixture.lane);
    const order = [await flow.fixture.read("zscan", blockedDependencies, 0, "COUNT", 10)].flat(2).map(String);
    const first = order[1] === flow.keys("last").id ? order[3] : order[1];
    const child = unwrap(parseExecutionId(first));
    await flow.fixture.read("del", ROUTER.execKeys(child).depsMeta);
    await flow.fixture.read("set", ROUTER.execKeys(child).depsMeta, "not a hash");
    expect(await sweep(servers().ports([flow]))).toMatchObject({
      state: "complete",
      scanned: 1_001,
      repaired: 1,
      unreadable: 1,
    });
    await servers().queue.drain();
  });

  it("does not fail the page of a promotion that raises an error", async () => {
    const flow = await servers().submit("up>child", "gone>broken");
    await flow.end("up", "failed");
    const { fixture } = flow;
    await fixture.read("del", flow.keys("broken").depsUnresolved);
    await fixture.read("hset", flow.keys("broken").depsMeta, "unsatisfied_required_count", 0);
    const { eligible } = fixture.index.lane(fixture.lane);
    await fixture.read("del", eligible);
    await fixture.read("set", eligible, "not a zset");
    expect(await sweep(servers().ports([flow]))).toMatchObject({
      state: "complete",
      repaired: 1,
      promoted: 0,
      unreadable: 1,
    });
    await servers().queue.drain();
  });

  it("of a mark counts as no mark", async () => {
    const flow = await servers().submit("up>child");
    await flow.end("up");
    await flow.fixture.read("lpush", flow.keys("up").resent(flow.fixture.flow.id), "not a string");
    expect(await sweep(servers().ports([flow]))).toMatchObject({ state: "complete", repaired: 1 });
    expect(await flow.mark("up")).toMatch(/\|1\|/);
    await servers().queue.drain();
  });
});

describe.each(SERVER_KINDS)("a change between two reads (%s)", (kind) => {
  const servers = useReconcilerServers(kind);

  /** Calls `change` once, before the first pipeline that has such a command. */
  function changeBefore(
    ports: ReconcilerPorts,
    isNext: (command: ValkeyCommand) => boolean,
    change: () => Promise<unknown>,
  ): ReconcilerPorts["valkey"] {
    let hasChanged = false;
    return {
      call: ports.valkey.call.bind(ports.valkey),
      pipelined: async (commands) => {
        if (!hasChanged && commands.some(isNext)) {
          hasChanged = true;
          await change();
        }
        return ports.valkey.pipelined(commands);
      },
    };
  }

  it.each(["success", "failed"] as const)(
    "does not count as unreadable: an edge resolved meanwhile (%s)",
    async (outcome) => {
      const fixture = servers().fixture();
      const [up, other, child] = [await fixture.member(), await fixture.member(), await fixture.member()];
      const edge = await fixture.edge(up, child);
      await fixture.edge(other, child);
      const ports = servers().ports([fixture]);
      const valkey = changeBefore(
        ports,
        ({ args }) => args.includes(child.dep(edge.id)),
        () => fixture.done(fixture.resolution(edge, outcome)),
      );
      expect(await sweep({ ...ports, valkey })).toMatchObject({
        state: "complete",
        unreadable: 0,
        scanned: 1,
      });
      expect(ports.telemetry.warnings).toEqual([]);
    },
  );

  it("does not count as unreadable: an execution skipped between the reads of its keys", async () => {
    const fixture = servers().fixture();
    const edge = await fixture.edge(await fixture.member(), await fixture.member());
    const ports = servers().ports([fixture]);
    let isFirst = true;
    const valkey: ReconcilerPorts["valkey"] = {
      call: ports.valkey.call.bind(ports.valkey),
      pipelined: async (commands) => {
        const results = await ports.valkey.pipelined(commands);
        const counted = commands.findIndex(({ name }) => name === "scard");
        if (!isFirst || counted === -1) return results;
        isFirst = false;
        // As if the other keys were read a moment later than the record.
        await fixture.done(fixture.resolution(edge, "failed"));
        const later = await ports.valkey.pipelined(commands);
        return results.map((result, position) => (position === 0 ? result : (later[position] ?? result)));
      },
    };
    expect(await sweep({ ...ports, valkey })).toMatchObject({
      state: "complete",
      promoted: 0,
      unreadable: 0,
    });
  });
});

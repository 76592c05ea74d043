import { describe, expect, it } from "vitest";
import type { Pipelines, ValkeyCommand } from "#shared/contract/command.ts";
import { replayExecution } from "#shared/contract/graph.ts";
import { parseEdgeId, parseExecutionId, unwrap } from "#shared/contract/ids.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import type { Completion } from "#shared/contract/message.ts";
import type { SendResult } from "#shared/queue/batch-sender.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import {
  bulkFamily,
  dispatchAll,
  dispatchOne,
  dispatchSetup,
  eventOf,
  stateOf,
} from "#test/support/dispatch.ts";
import { type FlowFixture, ROUTER } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

const WINDOW = 200;
/** More than two windows. */
const EDGES = 500;

/** In the future of the real clock, which the sender of messages uses; the tests set the dispatcher's clock. */
const DEADLINE = Date.now() + 3_600_000;

/** Counts commands by name. */
class CallCounter implements Pipelines {
  readonly counts = new Map<string, number>();
  readonly #valkey: Pipelines;

  constructor(valkey: Pipelines) {
    this.#valkey = valkey;
  }

  pipelined(commands: readonly ValkeyCommand[]): ReturnType<Pipelines["pipelined"]> {
    for (const { name } of commands) this.counts.set(name, (this.counts.get(name) ?? 0) + 1);
    return this.#valkey.pipelined(commands);
  }
}

describe.each(DEPLOYMENTS)("a fan-out over several deliveries ($name)", (deployment) => {
  const setup = dispatchSetup(deployment);

  async function longFamily(): Promise<{ fixture: FlowFixture; parent: ExecKeys; children: ExecKeys[] }> {
    const fixture = setup.flow();
    const { parent, children } = await bulkFamily(fixture, EDGES);
    await fixture.finish(parent, "failed");
    return { fixture, parent, children };
  }

  function windowed(overrides: Parameters<typeof setup.ports>[0] = {}): ReturnType<typeof setup.ports> {
    return setup.ports({ window: WINDOW, ...overrides });
  }

  /** Ports whose deadline passes once a number of checkpoints is saved. */
  function expiringAfter(
    checkpoints: number,
    counter: Pipelines = setup.valkey,
  ): ReturnType<typeof setup.ports> {
    let saved = 0;
    const watched: Pipelines = {
      pipelined: (commands) => {
        saved += commands.filter(
          ({ name, args }) => name === "set" && String(args[0]).endsWith(":fan_out"),
        ).length;
        return counter.pipelined(commands);
      },
    };
    return windowed({
      valkey: watched,
      now: () => (saved >= checkpoints ? DEADLINE : Date.now()),
      deadlineMs: DEADLINE,
    });
  }

  const publishedIds = async (): Promise<string[]> =>
    (await setup.queue.drainEvents()).map(({ executionId }) => executionId);

  it("stops at its deadline; the next delivery continues from the checkpoint", async () => {
    const { fixture, parent, children } = await longFamily();
    const event = eventOf(parent.id, fixture.flow.id);
    const first = expiringAfter(1);
    const errors = await dispatchOne(first, event);
    expect(errors).toMatchObject([{ name: "OutOfTimeError", retryable: true }]);
    const done = first.telemetry.counts.get(METRICS.childrenSkipped) ?? 0;
    expect(done).toBeGreaterThan(0);
    expect(done).toBeLessThan(EDGES);
    const published = await publishedIds();
    expect(published).toHaveLength(done);

    const counter = new CallCounter(setup.valkey);
    expect(await dispatchOne(windowed({ valkey: counter }), event)).toEqual([]);
    expect(counter.counts.get("fcall")).toBe(EDGES - done);
    expect(counter.counts.get("hget")).toBe(EDGES - done);
    expect([...published, ...(await publishedIds())].sort()).toEqual(children.map(({ id }) => id).sort());
    expect(await fixture.read("exists", parent.fanOut)).toBe(0);
  });

  it("calls no library function if the deadline has passed", async () => {
    const { fixture, parent } = await longFamily();
    const before = Number(await fixture.read("scard", fixture.flow.outgoing(parent.id)));
    const counter = new CallCounter(setup.valkey);
    const errors = await dispatchOne(expiringAfter(0, counter), eventOf(parent.id, fixture.flow.id));
    expect(errors).toMatchObject([{ name: "OutOfTimeError" }]);
    expect(errors[0]?.message).toContain(String(before));
    expect(counter.counts.get("fcall")).toBeUndefined();
  });

  it("continues after the last published window if the process died", async () => {
    const { fixture, parent, children } = await longFamily();
    const event = eventOf(parent.id, fixture.flow.id);
    const healthy = windowed();
    let sends = 0;
    const dying = windowed({
      publisher: {
        send: (completions: readonly Completion[]): Promise<SendResult[]> => {
          sends += 1;
          return sends === 2
            ? Promise.reject(new Error("the process died"))
            : healthy.publisher.send(completions);
        },
      },
    });
    await expect(dispatchAll(dying, [event])).rejects.toThrow("the process died");
    const published = await publishedIds();
    const counter = new CallCounter(setup.valkey);
    expect(await dispatchOne(windowed({ valkey: counter }), event)).toEqual([]);
    expect(counter.counts.get("fcall")).toBe(EDGES - published.length);
    expect([...published, ...(await publishedIds())].sort()).toEqual(children.map(({ id }) => id).sort());
  });

  it("starts from the first edge if the execution was replayed and ended again", async () => {
    const { fixture, parent } = await longFamily();
    const event = eventOf(parent.id, fixture.flow.id);
    await dispatchOne(expiringAfter(1), event);
    expect(await fixture.read("exists", parent.fanOut)).toBe(1);
    await fixture.done(replayExecution(parent, fixture.index, fixture.lane, [], 0));
    await fixture.finish(parent, "success");
    const counter = new CallCounter(setup.valkey);
    expect(await dispatchOne(windowed({ valkey: counter }), event)).toEqual([]);
    expect(counter.counts.get("fcall")).toBe(EDGES);
  });

  it("stops publishing at its deadline; the next delivery publishes the rest", async () => {
    const fixture = setup.flow();
    const { parent, children } = await bulkFamily(fixture, 1_200);
    await fixture.finish(parent, "failed");
    const event = eventOf(parent.id, fixture.flow.id);
    const healthy = setup.ports();
    let sends = 0;
    const slow = setup.ports({
      publisher: {
        send: (completions, deadlineMs) => {
          sends += 1;
          return healthy.publisher.send(completions, deadlineMs);
        },
      },
      now: () => (sends > 0 ? DEADLINE : Date.now()),
      deadlineMs: DEADLINE,
    });
    expect(await dispatchOne(slow, event)).toMatchObject([{ name: "OutOfTimeError", retryable: true }]);
    const published = await publishedIds();
    expect(published).toHaveLength(500);
    const rest = setup.ports();
    expect(await dispatchOne(rest, event)).toEqual([]);
    expect([...published, ...(await publishedIds())].sort()).toEqual(children.map(({ id }) => id).sort());
  });

  it("does not skip an edge that failed in the pass before", async () => {
    const { fixture, parent, children } = await longFamily();
    const event = eventOf(parent.id, fixture.flow.id);
    const broken = children[Math.floor(EDGES / 2)];
    if (!broken) throw new Error("no child");
    await fixture.read("hset", broken.core, "lane_id", "");
    expect(await dispatchOne(windowed(), event)).toMatchObject([{ name: "InvalidRecordError" }]);
    await fixture.read("hset", broken.core, "lane_id", fixture.lane);
    expect(await dispatchOne(windowed(), event)).toEqual([]);
    expect(await stateOf(fixture, broken)).toBe("skipped");
    expect((await publishedIds()).filter((id) => id === broken.id)).toHaveLength(1);
  });

  it("is cleared at the end of a pass with failures: a child before it that was replayed is reached again", async () => {
    const { fixture, parent } = await longFamily();
    const event = eventOf(parent.id, fixture.flow.id);
    const edges = await edgesInOrder(fixture, parent);
    const [first, last] = [edges[0], edges.at(-1)];
    if (!first || !last) throw new Error("no edges");
    // The last edge is staged and never applied: it fails every delivery.
    const unapplied = last.child.dep(last.edge);
    await fixture.read("rename", unapplied, `${unapplied}:moved`);
    const NOT_APPLIED = [{ name: "RefusedError", code: "invalid_dependency", retryable: true }];
    expect(await dispatchOne(windowed(), event)).toMatchObject(NOT_APPLIED);
    expect(await fixture.read("exists", parent.fanOut)).toBe(0);
    await publishedIds();

    // Only a member of a flow is replayed into waiting; the bulk records name no flow.
    await fixture.read("hset", first.child.core, "flow_id", fixture.flow.id);
    await fixture.done(replayExecution(first.child, fixture.index, fixture.lane, [first.edge], 0));
    expect(await stateOf(fixture, first.child)).toBe("waiting_children");
    expect(await dispatchOne(windowed(), event)).toMatchObject(NOT_APPLIED);
    expect(await stateOf(fixture, first.child)).toBe("skipped");
    expect(await publishedIds()).toEqual([first.child.id]);
  });

  /** Ports whose deadline passes once a window is resolved. */
  function expiringAfterOneWindow(): ReturnType<typeof setup.ports> {
    let calls = 0;
    const watched: Pipelines = {
      pipelined: async (commands) => {
        const results = await setup.valkey.pipelined(commands);
        calls += commands.filter(({ name }) => name === "fcall").length;
        return results;
      },
    };
    return windowed({
      valkey: watched,
      now: () => (calls >= WINDOW ? DEADLINE : Date.now()),
      deadlineMs: DEADLINE,
    });
  }

  it("reaches the edges behind one that always fails, and never reports a pass with a failure as dispatched", async () => {
    const { fixture, parent, children } = await longFamily();
    const event = eventOf(parent.id, fixture.flow.id);
    const edges = await edgesInOrder(fixture, parent);
    const [first, last] = [edges[0], edges.at(-1)];
    if (!first || !last) throw new Error("no edges");
    // The first edge is staged and never applied: it fails every delivery that reaches it.
    const unapplied = first.child.dep(first.edge);
    await fixture.read("rename", unapplied, `${unapplied}:moved`);
    for (let delivery = 1; delivery <= 3; delivery += 1) {
      expect(await dispatchOne(expiringAfterOneWindow(), event)).not.toEqual([]);
    }
    expect(await stateOf(fixture, last.child)).toBe("skipped");
    expect(await fixture.read("exists", parent.fanOut)).toBe(0);
    expect(await publishedIds()).toHaveLength(children.length - 1);

    await fixture.read("rename", `${unapplied}:moved`, unapplied);
    expect(await dispatchOne(windowed(), event)).toEqual([]);
    expect(await stateOf(fixture, first.child)).toBe("skipped");
  });

  it("is cleared by the delivery that ends a pass, not by one that ran out of time", async () => {
    const { fixture, parent } = await longFamily();
    const event = eventOf(parent.id, fixture.flow.id);
    await dispatchOne(expiringAfter(1), event);
    expect(await fixture.read("exists", parent.fanOut)).toBe(1);
    expect(await dispatchOne(windowed(), event)).toEqual([]);
    expect(await fixture.read("exists", parent.fanOut)).toBe(0);
  });
});

/** The edges of an execution in the order in which they are resolved, each with its child. */
async function edgesInOrder(fixture: FlowFixture, parent: ExecKeys) {
  const ids = await fixture.read("smembers", fixture.flow.outgoing(parent.id));
  if (!Array.isArray(ids)) throw new TypeError("SMEMBERS replied no array");
  const edges = ids.map((id: unknown) => unwrap(parseEdgeId(id))).sort();
  return Promise.all(
    edges.map(async (edge) => {
      const child = await fixture.read("hget", fixture.flow.edge(edge), "downstream_execution_id");
      return { edge, child: ROUTER.execKeys(unwrap(parseExecutionId(child))) };
    }),
  );
}

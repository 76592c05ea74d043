import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Pipelines, ValkeyCommand } from "#shared/contract/command.ts";
import { replayExecution } from "#shared/contract/graph.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import type { Completion } from "#shared/contract/message.ts";
import type { SendResult } from "#shared/queue/batch-sender.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import {
  bulkFamily,
  dispatchAll,
  dispatchOne,
  eventOf,
  portsOf,
  QueueProbe,
  stateOf,
} from "#test/support/dispatch.ts";
import { FlowFixture } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

const WINDOW = 200;
/** More than two windows of edges. */
const EDGES = 500;

/** Of a clock that the test sets; the sender of messages has the real one. */
const DEADLINE = Date.now() + 3_600_000;

/** Counts the calls that reach Valkey. */
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

describe.each(DEPLOYMENTS)("a fan-out that takes several deliveries ($name)", ({ connect }) => {
  let valkey: Valkey;
  let queue: QueueProbe;

  beforeAll(async () => {
    valkey = connect();
    queue = await QueueProbe.start();
  });
  afterAll(async () => {
    valkey.close();
    await queue[Symbol.asyncDispose]();
  });

  async function longFamily(): Promise<{ fixture: FlowFixture; parent: ExecKeys; children: ExecKeys[] }> {
    const fixture = new FlowFixture(valkey);
    const { parent, children } = await bulkFamily(fixture, EDGES);
    await fixture.finish(parent, "failed");
    return { fixture, parent, children };
  }

  function windowed(overrides: Parameters<typeof portsOf>[2] = {}): ReturnType<typeof portsOf> {
    return portsOf(valkey, queue, { window: WINDOW, ...overrides });
  }

  /** Ports of an invocation whose time is up as soon as it has kept its place so many times. */
  function hurried(places: number, counter: Pipelines = valkey): ReturnType<typeof portsOf> {
    let kept = 0;
    const watched: Pipelines = {
      pipelined: (commands) => {
        kept += commands.filter(
          ({ name, args }) => name === "set" && String(args[0]).endsWith(":fan_out"),
        ).length;
        return counter.pipelined(commands);
      },
    };
    return windowed({
      valkey: watched,
      now: () => (kept >= places ? DEADLINE : Date.now()),
      deadlineMs: DEADLINE,
    });
  }

  const publishedIds = async (): Promise<string[]> =>
    (await queue.drainEvents()).map(({ executionId }) => executionId);

  it("stops before its time is up, and goes on where it stopped", async () => {
    const { fixture, parent, children } = await longFamily();
    const event = eventOf(parent.id, fixture.flow.id);
    const first = hurried(1);
    const errors = await dispatchOne(first, event);
    expect(errors).toMatchObject([{ name: "OutOfTimeError", retryable: true }]);
    const done = first.telemetry.counts.get(METRICS.childrenSkipped) ?? 0;
    expect(done).toBeGreaterThan(0);
    expect(done).toBeLessThan(EDGES);
    const published = await publishedIds();
    expect(published).toHaveLength(done);

    const counter = new CallCounter(valkey);
    expect(await dispatchOne(windowed({ valkey: counter }), event)).toEqual([]);
    expect(counter.counts.get("fcall")).toBe(EDGES - done);
    expect(counter.counts.get("hget")).toBe(EDGES - done);
    expect([...published, ...(await publishedIds())].sort()).toEqual(children.map(({ id }) => id).sort());
    expect(await fixture.read("exists", parent.fanOut)).toBe(0);
  });

  it("does nothing at all when there is no time", async () => {
    const { fixture, parent } = await longFamily();
    const before = Number(await fixture.read("scard", fixture.flow.outgoing(parent.id)));
    const counter = new CallCounter(valkey);
    const errors = await dispatchOne(hurried(0, counter), eventOf(parent.id, fixture.flow.id));
    expect(errors).toMatchObject([{ name: "OutOfTimeError" }]);
    expect(errors[0]?.message).toContain(String(before));
    expect(counter.counts.get("fcall")).toBeUndefined();
  });

  it("goes on behind the last window that was published when the process died", async () => {
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
    const counter = new CallCounter(valkey);
    expect(await dispatchOne(windowed({ valkey: counter }), event)).toEqual([]);
    expect(counter.counts.get("fcall")).toBe(EDGES - published.length);
    expect([...published, ...(await publishedIds())].sort()).toEqual(children.map(({ id }) => id).sort());
  });

  it("begins anew for an execution that was replayed and ended again", async () => {
    const { fixture, parent } = await longFamily();
    const event = eventOf(parent.id, fixture.flow.id);
    await dispatchOne(hurried(1), event);
    expect(await fixture.read("exists", parent.fanOut)).toBe(1);
    await fixture.done(replayExecution(parent, fixture.index, fixture.lane, [], 0));
    await fixture.finish(parent, "success");
    const counter = new CallCounter(valkey);
    expect(await dispatchOne(windowed({ valkey: counter }), event)).toEqual([]);
    expect(counter.counts.get("fcall")).toBe(EDGES);
    await queue.drain();
  });

  it("publishes in slices, and leaves to the next delivery what it has no time for", async () => {
    const fixture = new FlowFixture(valkey);
    const { parent, children } = await bulkFamily(fixture, 1_200);
    await fixture.finish(parent, "failed");
    const event = eventOf(parent.id, fixture.flow.id);
    const healthy = portsOf(valkey, queue);
    let sends = 0;
    const slow = portsOf(valkey, queue, {
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
    const rest = portsOf(valkey, queue);
    expect(await dispatchOne(rest, event)).toEqual([]);
    expect([...published, ...(await publishedIds())].sort()).toEqual(children.map(({ id }) => id).sort());
  });

  it("does not step over an edge that failed", async () => {
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
});

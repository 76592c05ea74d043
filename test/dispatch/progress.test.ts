import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Pipelines, ValkeyCommand } from "#shared/contract/command.ts";
import { replayExecution } from "#shared/contract/graph.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import type { Completion } from "#shared/contract/message.ts";
import { dispatch } from "#shared/dispatch/dispatcher.ts";
import type { SendResult } from "#shared/queue/batch-sender.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { bulkFamily, dispatchOne, eventOf, portsOf, QueueProbe, stateOf } from "#test/support/dispatch.ts";
import { Scene } from "#test/support/scene.ts";
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

  async function longFamily(): Promise<{ scene: Scene; parent: ExecKeys; children: ExecKeys[] }> {
    const scene = new Scene(valkey);
    const { parent, children } = await bulkFamily(scene, EDGES);
    await scene.finish(parent, "failed");
    return { scene, parent, children };
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
    const { scene, parent, children } = await longFamily();
    const event = eventOf(parent.id, scene.flow.id);
    const first = hurried(1);
    const faults = await dispatchOne(first, event);
    expect(faults).toMatchObject([{ name: "OutOfTimeError", retryable: true }]);
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
    expect(await scene.read("exists", parent.fanOut)).toBe(0);
  });

  it("does nothing at all when there is no time", async () => {
    const { scene, parent } = await longFamily();
    const before = Number(await scene.read("scard", scene.flow.outgoing(parent.id)));
    const counter = new CallCounter(valkey);
    const faults = await dispatchOne(hurried(0, counter), eventOf(parent.id, scene.flow.id));
    expect(faults).toMatchObject([{ name: "OutOfTimeError" }]);
    expect(faults[0]?.message).toContain(String(before));
    expect(counter.counts.get("fcall")).toBeUndefined();
  });

  it("goes on behind the last window that was published when the process died", async () => {
    const { scene, parent, children } = await longFamily();
    const event = eventOf(parent.id, scene.flow.id);
    const healthy = windowed();
    let sends = 0;
    const dying = windowed({
      sink: {
        send: (completions: readonly Completion[]): Promise<SendResult[]> => {
          sends += 1;
          return sends === 2 ? Promise.reject(new Error("the process died")) : healthy.sink.send(completions);
        },
      },
    });
    await expect(dispatch(dying, [event])).rejects.toThrow("the process died");
    const published = await publishedIds();
    const counter = new CallCounter(valkey);
    expect(await dispatchOne(windowed({ valkey: counter }), event)).toEqual([]);
    expect(counter.counts.get("fcall")).toBe(EDGES - published.length);
    expect([...published, ...(await publishedIds())].sort()).toEqual(children.map(({ id }) => id).sort());
  });

  it("begins anew for an execution that was replayed and ended again", async () => {
    const { scene, parent } = await longFamily();
    const event = eventOf(parent.id, scene.flow.id);
    await dispatchOne(hurried(1), event);
    expect(await scene.read("exists", parent.fanOut)).toBe(1);
    await scene.done(replayExecution(parent, scene.index, scene.lane, [], 0));
    await scene.finish(parent, "success");
    const counter = new CallCounter(valkey);
    expect(await dispatchOne(windowed({ valkey: counter }), event)).toEqual([]);
    expect(counter.counts.get("fcall")).toBe(EDGES);
    await queue.drain();
  });

  it("publishes in slices, and leaves to the next delivery what it has no time for", async () => {
    const scene = new Scene(valkey);
    const { parent, children } = await bulkFamily(scene, 1_200);
    await scene.finish(parent, "failed");
    const event = eventOf(parent.id, scene.flow.id);
    const healthy = portsOf(valkey, queue);
    let sends = 0;
    const slow = portsOf(valkey, queue, {
      sink: {
        send: (completions, deadlineMs) => {
          sends += 1;
          return healthy.sink.send(completions, deadlineMs);
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
    const { scene, parent, children } = await longFamily();
    const event = eventOf(parent.id, scene.flow.id);
    const broken = children[Math.floor(EDGES / 2)];
    if (!broken) throw new Error("no child");
    await scene.read("hset", broken.core, "lane_id", "");
    expect(await dispatchOne(windowed(), event)).toMatchObject([{ name: "InvalidRecordError" }]);
    await scene.read("hset", broken.core, "lane_id", scene.lane);
    expect(await dispatchOne(windowed(), event)).toEqual([]);
    expect(await stateOf(scene, broken)).toBe("skipped");
    expect((await publishedIds()).filter((id) => id === broken.id)).toHaveLength(1);
  });
});

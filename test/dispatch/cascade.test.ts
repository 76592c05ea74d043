import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Pipelines, ValkeyCommand } from "#shared/contract/command.ts";
import { replayExecution } from "#shared/contract/graph.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { MARK_TTL_SECONDS } from "#shared/dispatch/publish-cascades.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import {
  dispatchAll,
  dispatchOne,
  eventOf,
  family,
  portsOf,
  QueueProbe,
  stateOf,
} from "#test/support/dispatch.ts";
import { FaultyQueue } from "#test/support/faulty-queue.ts";
import { FlowFixture } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

describe.each(DEPLOYMENTS)("the cascade ($name)", ({ connect }) => {
  let valkey: Valkey;
  let queue: QueueProbe;
  let faulty: FaultyQueue;

  beforeAll(async () => {
    valkey = connect();
    queue = await QueueProbe.start();
    faulty = await FaultyQueue.before(queue.queue.endpoint);
  });
  afterAll(async () => {
    valkey.close();
    await faulty[Symbol.asyncDispose]();
    await queue[Symbol.asyncDispose]();
  });

  /** Ports whose queue goes through the proxy. */
  function faultyPorts(decide: FaultyQueue["decide"]): ReturnType<typeof portsOf> {
    faulty.decide = decide;
    faulty.calls = 0;
    return portsOf(valkey, queue, {
      publisher: new SqsCompletionPublisher(faulty.client(), queue.queue.queueUrl),
    });
  }

  async function failedFamily(
    children: number,
  ): Promise<{ fixture: FlowFixture; parent: ExecKeys; children: ExecKeys[] }> {
    const fixture = new FlowFixture(valkey);
    const made = await family(fixture, children);
    await fixture.finish(made.parent, "failed");
    return { fixture, parent: made.parent, children: made.children };
  }

  const publishedIds = async (): Promise<string[]> =>
    (await queue.drainEvents()).map(({ executionId }) => executionId).sort();
  const idsOf = (children: readonly ExecKeys[]): string[] => children.map(({ id }) => id).sort();

  it("is published by the next delivery when the first died before it could", async () => {
    const { fixture, parent, children } = await failedFamily(3);
    const event = eventOf(parent.id, fixture.flow.id);
    // The process dies after the FCALLs: no send is tried, no reply is given.
    const dying = portsOf(valkey, queue, {
      publisher: { send: () => Promise.reject(new Error("the process died")) },
    });
    await expect(dispatchAll(dying, [event])).rejects.toThrow("the process died");
    expect(await Promise.all(children.map((child) => stateOf(fixture, child)))).toEqual(
      Array(3).fill("skipped"),
    );

    const ports = portsOf(valkey, queue);
    expect(await dispatchOne(ports, event)).toEqual([]);
    expect(await publishedIds()).toEqual(idsOf(children));
    expect(await dispatchOne(ports, event)).toEqual([]);
    expect(await publishedIds()).toEqual([]);
  });

  it("is marked beside the child's record, for longer than a message can live", async () => {
    const { fixture, parent, children } = await failedFamily(1);
    const [child] = children;
    if (!child) throw new Error("no child");
    await dispatchOne(portsOf(valkey, queue), eventOf(parent.id, fixture.flow.id));
    expect(await fixture.read("get", child.cascade)).toBe(
      await fixture.read("hget", child.core, "completed_at"),
    );
    const ttl = Number(await fixture.read("ttl", child.cascade));
    expect(MARK_TTL_SECONDS).toBeGreaterThan(18 * 86_400);
    expect(ttl).toBeGreaterThan(18 * 86_400);
    expect(ttl).toBeLessThanOrEqual(MARK_TTL_SECONDS);
    await queue.drain();
  });

  it("does not bring a trimmed record back to life", async () => {
    const { fixture, parent, children } = await failedFamily(1);
    const [child] = children;
    if (!child) throw new Error("no child");
    const trimming = portsOf(valkey, queue);
    const publisher = trimming.publisher;
    const ports = {
      ...trimming,
      // Retention removes the child between the queue's answer and the mark.
      publisher: {
        send: async (...args: Parameters<typeof publisher.send>) => {
          const results = await publisher.send(...args);
          await fixture.read("del", child.core, child.depsMeta, child.depsAllEdges);
          return results;
        },
      },
    };
    expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(await fixture.read("exists", child.core)).toBe(0);
    expect(Number(await fixture.read("ttl", child.cascade))).toBeGreaterThan(0);
    await queue.drain();
  });

  it("comes again for a child that was replayed and skipped again", async () => {
    const fixture = new FlowFixture(valkey);
    const { parent, children, edges } = await family(fixture, 1);
    const [child] = children;
    const [edge] = edges;
    if (!child || !edge) throw new Error("no child");
    await fixture.finish(parent, "failed");
    const event = eventOf(parent.id, fixture.flow.id);
    let now = Date.now();
    const ports = portsOf(valkey, queue, { now: () => (now += 1_000) });
    await dispatchOne(ports, event);
    expect(await publishedIds()).toEqual([child.id]);
    await fixture.done(replayExecution(child, fixture.index, fixture.lane, [edge.id], 0));
    expect(await stateOf(fixture, child)).toBe("waiting_children");
    await dispatchOne(ports, event);
    expect(await stateOf(fixture, child)).toBe("skipped");
    expect(await publishedIds()).toEqual([child.id]);
    await dispatchOne(ports, event);
    expect(await publishedIds()).toEqual([]);
  });

  it("comes for a second skip that an earlier delivery did not live to publish", async () => {
    const fixture = new FlowFixture(valkey);
    const { parent, children, edges } = await family(fixture, 1);
    const [child] = children;
    const [edge] = edges;
    if (!child || !edge) throw new Error("no child");
    await fixture.finish(parent, "failed");
    const event = eventOf(parent.id, fixture.flow.id);
    await dispatchOne(portsOf(valkey, queue, { now: () => 1_000 }), event);
    await fixture.done(replayExecution(child, fixture.index, fixture.lane, [edge.id], 0));
    await fixture.done(fixture.resolution(edge, "failed", 2_000));
    await queue.drain();
    // The mark names the skip at 1,000; the record stands skipped at 2,000.
    expect(await dispatchOne(portsOf(valkey, queue), event)).toEqual([]);
    expect(await publishedIds()).toEqual([child.id]);
  });

  it("is not left to a delivery of the same message that skipped the child meanwhile and died", async () => {
    const { fixture, parent, children } = await failedFamily(2);
    const event = eventOf(parent.id, fixture.flow.id);
    const dying = portsOf(valkey, queue, {
      publisher: { send: () => Promise.reject(new Error("the process died")) },
    });
    // The other delivery runs between this one's reading of the children and its FCALLs.
    const overtaken = overtakenBefore(valkey, "fcall", async () => {
      await expect(dispatchAll(dying, [event])).rejects.toThrow("the process died");
    });
    expect(await dispatchOne(portsOf(valkey, queue, { valkey: overtaken }), event)).toEqual([]);
    expect(await publishedIds()).toEqual(idsOf(children));
  });

  it("does not multiply when one message is delivered many times at once", async () => {
    const { fixture, parent, children } = await failedFamily(5);
    const event = eventOf(parent.id, fixture.flow.id);
    const ports = portsOf(valkey, queue);
    const deliveries = await Promise.all(Array.from({ length: 10 }, () => dispatchOne(ports, event)));
    // Who finds another delivery at it does not take its word for done.
    for (const fault of deliveries.flat())
      expect(fault).toMatchObject({ name: "CascadeInProgressError", retryable: true });
    const published = await publishedIds();
    expect(new Set(published)).toEqual(new Set(idsOf(children)));
    expect(published.length).toBeLessThanOrEqual(2 * children.length);
    expect(await dispatchOne(ports, event)).toEqual([]);
    expect(await publishedIds()).toEqual([]);
  });

  it("waits for a delivery that is publishing it, and takes over when that one is dead", async () => {
    const { fixture, parent, children } = await failedFamily(1);
    const [child] = children;
    if (!child) throw new Error("no child");
    const event = eventOf(parent.id, fixture.flow.id);
    const dying = portsOf(valkey, queue, {
      publisher: { send: () => Promise.reject(new Error("the process died")) },
    });
    await expect(dispatchAll(dying, [event])).rejects.toThrow("the process died");
    await expect(dispatchAll(dying, [event])).rejects.toThrow("the process died");
    // The second one died with the claim.
    expect(await dispatchOne(portsOf(valkey, queue), event)).toMatchObject([
      { name: "CascadeInProgressError" },
    ]);
    expect(Number(await fixture.read("pttl", child.cascadeClaim))).toBeGreaterThan(0);
    await fixture.read("pexpire", child.cascadeClaim, 0);
    expect(await dispatchOne(portsOf(valkey, queue), event)).toEqual([]);
    expect(await publishedIds()).toEqual([child.id]);
  });

  it("is not published at all where it cannot be claimed", async () => {
    const { fixture, parent } = await failedFamily(1);
    const event = eventOf(parent.id, fixture.flow.id);
    await dispatchOne(portsOf(valkey, queue, { valkey: failingOn(valkey, "set") }), event);
    await queue.drain();
    const again = portsOf(valkey, queue, { valkey: failingOn(valkey, "set") });
    expect(await dispatchOne(again, event)).toMatchObject([{ name: "ValkeyError" }]);
    expect(await publishedIds()).toEqual([]);
  });

  it("is published once for two parents of one batch that both find the child unpublished", async () => {
    const fixture = new FlowFixture(valkey);
    const [first, second, child] = [await fixture.member(), await fixture.member(), await fixture.member()];
    const edges = [await fixture.edge(first, child), await fixture.edge(second, child)];
    await fixture.finish(first, "failed");
    await fixture.finish(second, "failed");
    for (const edge of edges) await fixture.done(fixture.resolution(edge, "failed", 5_000));
    const events = [eventOf(first.id, fixture.flow.id), eventOf(second.id, fixture.flow.id)];
    expect(await dispatchAll(portsOf(valkey, queue), events)).toEqual([[], []]);
    expect(await publishedIds()).toEqual([child.id]);
  });

  it("sends entries again that the queue did not take", async () => {
    const { fixture, parent, children } = await failedFamily(12);
    const ports = faultyPorts((call) =>
      call <= 2 ? { kind: "failed_entries", ids: (_, index) => index % 2 === 0 } : { kind: "none" },
    );
    expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(faulty.calls).toBe(4);
    expect(await publishedIds()).toEqual(idsOf(children));
  });

  it("fails the message for entries that the queue never takes, and marks the others only", async () => {
    const { fixture, parent, children } = await failedFamily(12);
    const event = eventOf(parent.id, fixture.flow.id);
    const refused = faultyPorts(() => ({ kind: "failed_entries", ids: (id) => id === "3" }));
    expect(await dispatchOne(refused, event)).toMatchObject([{ name: "PublishError", retryable: true }]);
    const published = await publishedIds();
    expect(published).toHaveLength(11);
    const marks = await Promise.all(children.map(({ cascade }) => fixture.read("exists", cascade)));
    expect(marks.filter((mark) => mark === 1)).toHaveLength(11);

    const healed = faultyPorts(() => ({ kind: "none" }));
    expect(await dispatchOne(healed, event)).toEqual([]);
    const rest = await publishedIds();
    expect(rest).toHaveLength(1);
    expect([...published, ...rest].sort()).toEqual(idsOf(children));
  });

  it.each([{ kind: "http_error", status: 503 }, { kind: "reply_lost" }] as const)(
    "fails the messages of the batch that it concerns when sending fails ($kind)",
    async (fault) => {
      const broken = await failedFamily(2);
      const sound = new FlowFixture(valkey);
      const successful = await family(sound, 1);
      await sound.finish(successful.parent, "success");
      const ports = faultyPorts(() => fault);
      const [first, second] = await dispatchAll(ports, [
        eventOf(broken.parent.id, broken.fixture.flow.id),
        eventOf(successful.parent.id, sound.flow.id),
      ]);
      expect(first).toMatchObject([{ name: "PublishError" }, { name: "PublishError" }]);
      expect(second).toEqual([]);
      await queue.drain();
      faulty.decide = () => ({ kind: "none" });
      expect(await dispatchOne(ports, eventOf(broken.parent.id, broken.fixture.flow.id))).toEqual([]);
      expect(await publishedIds()).toEqual(idsOf(broken.children));
    },
  );

  it("counts as published when only the mark could not be written", async () => {
    const { fixture, parent, children } = await failedFamily(1);
    const ports = portsOf(valkey, queue, { valkey: failingOn(valkey, "set") });
    expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(ports.telemetry.warnings).toHaveLength(1);
    expect(await publishedIds()).toEqual(idsOf(children));
  });
});

/** The same Valkey, on which something else happens just before the first pipeline of one command. */
function overtakenBefore(valkey: Pipelines, name: string, act: () => Promise<void>): Pipelines {
  let isDone = false;
  return {
    async pipelined(commands) {
      if (!isDone && commands.some((command) => command.name === name)) {
        isDone = true;
        await act();
      }
      return valkey.pipelined(commands);
    },
  };
}

/** The same Valkey, to which one command cannot be sent. */
function failingOn(valkey: Pipelines, name: string): Pipelines {
  return {
    pipelined: (commands: readonly ValkeyCommand[]) =>
      commands.some((command) => command.name === name)
        ? Promise.resolve(commands.map(() => ({ ok: false, error: new Error("Connection is closed.") })))
        : valkey.pipelined(commands),
  };
}

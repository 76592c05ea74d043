import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Pipelines, ValkeyCommand } from "#shared/contract/command.ts";
import { replayExecution } from "#shared/contract/graph.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { CASCADE_MARK_TTL_SECONDS } from "#shared/contract/keys.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { dispatchAll, dispatchOne, dispatchSetup, eventOf, family, stateOf } from "#test/support/dispatch.ts";
import { FaultyQueue } from "#test/support/faulty-queue.ts";
import type { FlowFixture } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

describe.each(DEPLOYMENTS)("the cascade ($name)", (deployment) => {
  const setup = dispatchSetup(deployment);
  let faulty: FaultyQueue;
  beforeAll(async () => {
    faulty = await FaultyQueue.before(setup.queue.queue.endpoint);
  });
  afterAll(() => faulty[Symbol.asyncDispose]());

  /** Ports that send through the faulty queue. */
  function faultyPorts(decide: FaultyQueue["decide"]): ReturnType<typeof setup.ports> {
    faulty.decide = decide;
    faulty.calls = 0;
    return setup.ports({
      publisher: new SqsCompletionPublisher(faulty.client(), setup.queue.queue.queueUrl),
    });
  }

  async function failedFamily(
    children: number,
  ): Promise<{ fixture: FlowFixture; parent: ExecKeys; children: ExecKeys[] }> {
    const fixture = setup.flow();
    const made = await family(fixture, children);
    await fixture.finish(made.parent, "failed");
    return { fixture, parent: made.parent, children: made.children };
  }

  const publishedIds = async (): Promise<string[]> =>
    (await setup.queue.drainEvents()).map(({ executionId }) => executionId).sort();
  const idsOf = (children: readonly ExecKeys[]): string[] => children.map(({ id }) => id).sort();

  it("is published by the next delivery if the first one died before publishing", async () => {
    const { fixture, parent, children } = await failedFamily(3);
    const event = eventOf(parent.id, fixture.flow.id);
    // The process dies after the FCALLs and before the send.
    const dying = setup.ports({
      publisher: { send: () => Promise.reject(new Error("the process died")) },
    });
    await expect(dispatchAll(dying, [event])).rejects.toThrow("the process died");
    expect(await Promise.all(children.map((child) => stateOf(fixture, child)))).toEqual(
      Array(3).fill("skipped"),
    );

    const ports = setup.ports();
    expect(await dispatchOne(ports, event)).toEqual([]);
    expect(await publishedIds()).toEqual(idsOf(children));
    expect(await dispatchOne(ports, event)).toEqual([]);
    expect(await publishedIds()).toEqual([]);
  });

  it("sets a mark with the time of the skip, which expires after more than 18 days", async () => {
    const { fixture, parent, children } = await failedFamily(1);
    const [child] = children;
    if (!child) throw new Error("no child");
    await dispatchOne(setup.ports(), eventOf(parent.id, fixture.flow.id));
    expect(await fixture.read("get", child.cascade)).toBe(
      await fixture.read("hget", child.core, "completed_at"),
    );
    const ttl = Number(await fixture.read("ttl", child.cascade));
    expect(CASCADE_MARK_TTL_SECONDS).toBeGreaterThan(18 * 86_400);
    expect(ttl).toBeGreaterThan(18 * 86_400);
    expect(ttl).toBeLessThanOrEqual(CASCADE_MARK_TTL_SECONDS);
  });

  it("does not recreate a record that retention has removed", async () => {
    const { fixture, parent, children } = await failedFamily(1);
    const [child] = children;
    if (!child) throw new Error("no child");
    const trimming = setup.ports();
    const publisher = trimming.publisher;
    const ports = {
      ...trimming,
      // Retention removes the child after the send and before the mark is set.
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
  });

  it("is published again for a child that was replayed and skipped again", async () => {
    const fixture = setup.flow();
    const { parent, children, edges } = await family(fixture, 1);
    const [child] = children;
    const [edge] = edges;
    if (!child || !edge) throw new Error("no child");
    await fixture.finish(parent, "failed");
    const event = eventOf(parent.id, fixture.flow.id);
    let now = Date.now();
    const ports = setup.ports({ now: () => (now += 1_000) });
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

  it("is published for a second skip if the delivery that skipped the child died before publishing", async () => {
    const fixture = setup.flow();
    const { parent, children, edges } = await family(fixture, 1);
    const [child] = children;
    const [edge] = edges;
    if (!child || !edge) throw new Error("no child");
    await fixture.finish(parent, "failed");
    const event = eventOf(parent.id, fixture.flow.id);
    await dispatchOne(setup.ports({ now: () => 1_000 }), event);
    await fixture.done(replayExecution(child, fixture.index, fixture.lane, [edge.id], 0));
    await fixture.done(fixture.resolution(edge, "failed", 2_000));
    await setup.queue.drain();
    // The mark has the time of the first skip, 1,000; the record was skipped again at 2,000.
    expect(await dispatchOne(setup.ports(), event)).toEqual([]);
    expect(await publishedIds()).toEqual([child.id]);
  });

  it("is published by a slower delivery of the same message if the faster one skipped the child and died", async () => {
    const { fixture, parent, children } = await failedFamily(2);
    const event = eventOf(parent.id, fixture.flow.id);
    const dying = setup.ports({
      publisher: { send: () => Promise.reject(new Error("the process died")) },
    });
    // The other delivery runs after this one has read the children and before its FCALLs.
    const slower = runningBefore(setup.valkey, "fcall", async () => {
      await expect(dispatchAll(dying, [event])).rejects.toThrow("the process died");
    });
    expect(await dispatchOne(setup.ports({ valkey: slower }), event)).toEqual([]);
    expect(await publishedIds()).toEqual(idsOf(children));
  });

  it("is published at most twice if a message is delivered 10 times at once", async () => {
    const { fixture, parent, children } = await failedFamily(5);
    const event = eventOf(parent.id, fixture.flow.id);
    const ports = setup.ports();
    const deliveries = await Promise.all(Array.from({ length: 10 }, () => dispatchOne(ports, event)));
    // A delivery that finds the cascade claimed fails, so that its message is redelivered.
    for (const error of deliveries.flat())
      expect(error).toMatchObject({ name: "CascadeInProgressError", retryable: true });
    const published = await publishedIds();
    expect(new Set(published)).toEqual(new Set(idsOf(children)));
    expect(published.length).toBeLessThanOrEqual(2 * children.length);
    expect(await dispatchOne(ports, event)).toEqual([]);
    expect(await publishedIds()).toEqual([]);
  });

  it("is not published while another delivery has claimed it; it is once the claim expires", async () => {
    const { fixture, parent, children } = await failedFamily(1);
    const [child] = children;
    if (!child) throw new Error("no child");
    const event = eventOf(parent.id, fixture.flow.id);
    const dying = setup.ports({
      publisher: { send: () => Promise.reject(new Error("the process died")) },
    });
    await expect(dispatchAll(dying, [event])).rejects.toThrow("the process died");
    await expect(dispatchAll(dying, [event])).rejects.toThrow("the process died");
    // The second delivery died after it claimed the cascade.
    expect(await dispatchOne(setup.ports(), event)).toMatchObject([{ name: "CascadeInProgressError" }]);
    expect(Number(await fixture.read("pttl", child.cascadeClaim))).toBeGreaterThan(0);
    await fixture.read("pexpire", child.cascadeClaim, 0);
    expect(await dispatchOne(setup.ports(), event)).toEqual([]);
    expect(await publishedIds()).toEqual([child.id]);
  });

  it("is not published if it cannot be claimed", async () => {
    const { fixture, parent } = await failedFamily(1);
    const event = eventOf(parent.id, fixture.flow.id);
    await dispatchOne(setup.ports({ valkey: failingOn(setup.valkey, "set") }), event);
    await setup.queue.drain();
    const again = setup.ports({ valkey: failingOn(setup.valkey, "set") });
    expect(await dispatchOne(again, event)).toMatchObject([{ name: "ValkeyError" }]);
    expect(await publishedIds()).toEqual([]);
  });

  it("is published once if two upstreams of one batch both find the skipped child unpublished", async () => {
    const fixture = setup.flow();
    const [first, second, child] = [await fixture.member(), await fixture.member(), await fixture.member()];
    const edges = [await fixture.edge(first, child), await fixture.edge(second, child)];
    await fixture.finish(first, "failed");
    await fixture.finish(second, "failed");
    for (const edge of edges) await fixture.done(fixture.resolution(edge, "failed", 5_000));
    const events = [eventOf(first.id, fixture.flow.id), eventOf(second.id, fixture.flow.id)];
    expect(await dispatchAll(setup.ports(), events)).toEqual([[], []]);
    expect(await publishedIds()).toEqual([child.id]);
  });

  it("retries the entries that the queue refused", async () => {
    const { fixture, parent, children } = await failedFamily(12);
    const ports = faultyPorts((call) =>
      call <= 2 ? { kind: "failed_entries", ids: (_, index) => index % 2 === 0 } : { kind: "none" },
    );
    expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(faulty.calls).toBe(4);
    expect(await publishedIds()).toEqual(idsOf(children));
  });

  it("fails the message if the queue keeps refusing an entry, and marks only the published children", async () => {
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
    "fails only the messages of the batch whose children were not published ($kind)",
    async (fault) => {
      const broken = await failedFamily(2);
      const sound = setup.flow();
      const successful = await family(sound, 1);
      await sound.finish(successful.parent, "success");
      const ports = faultyPorts(() => fault);
      const [first, second] = await dispatchAll(ports, [
        eventOf(broken.parent.id, broken.fixture.flow.id),
        eventOf(successful.parent.id, sound.flow.id),
      ]);
      expect(first).toMatchObject([{ name: "PublishError" }, { name: "PublishError" }]);
      expect(second).toEqual([]);
      await setup.queue.drain();
      faulty.decide = () => ({ kind: "none" });
      expect(await dispatchOne(ports, eventOf(broken.parent.id, broken.fixture.flow.id))).toEqual([]);
      expect(await publishedIds()).toEqual(idsOf(broken.children));
    },
  );

  it("acknowledges the message if only the mark could not be written, with a warning", async () => {
    const { fixture, parent, children } = await failedFamily(1);
    const ports = setup.ports({ valkey: failingOn(setup.valkey, "set") });
    expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(ports.telemetry.warnings).toHaveLength(1);
    expect(await publishedIds()).toEqual(idsOf(children));
  });
});

/** Runs an action once, just before the first pipeline that contains a command. */
function runningBefore(valkey: Pipelines, name: string, act: () => Promise<void>): Pipelines {
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

/** Fails every pipeline that contains a command. */
function failingOn(valkey: Pipelines, name: string): Pipelines {
  return {
    pipelined: (commands: readonly ValkeyCommand[]) =>
      commands.some((command) => command.name === name)
        ? Promise.resolve(commands.map(() => ({ ok: false, error: new Error("Connection is closed.") })))
        : valkey.pipelined(commands),
  };
}

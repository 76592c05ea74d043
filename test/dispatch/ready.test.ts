import { describe, expect, it } from "vitest";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { SqsReadyPublisher } from "#shared/ready/publisher.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { dispatchAll, dispatchOne, dispatchSetup, eventOf, family } from "#test/support/dispatch.ts";
import { LANE } from "#test/support/flow-fixture.ts";
import { createReadyQueue, drainReady, RecordedReady } from "#test/support/ready.ts";
import { RoundCounter } from "#test/support/round-counter.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

function idsOf(children: readonly ExecKeys[]): string[] {
  return children.map(({ id }) => id).sort();
}

describe.each(DEPLOYMENTS)("ready messages of dispatch ($name)", (deployment) => {
  const setup = dispatchSetup(deployment);

  it("announces each child that became eligible, with its flow, lane, kind and root", async () => {
    const fixture = setup.flow();
    const { parent, children } = await family(fixture, 3);
    await fixture.finish(parent, "success");
    const ready = new RecordedReady();
    const ports = setup.ports({ ready });
    const traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id, { traceparent }))).toEqual([]);
    expect(ready.ids.toSorted()).toEqual(idsOf(children));
    expect(ready.announced[0]).toMatchObject({
      flowId: fixture.flow.id,
      lane: LANE,
      kind: "task",
      root: parent.id,
      traceparent,
    });
    expect(ports.telemetry.counts.get(METRICS.readyAnnounced)).toBe(3);
  });

  it("needs one round trip more than without ready queues: the marks", async () => {
    const fixture = setup.flow();
    const { parent } = await family(fixture, 300);
    await fixture.finish(parent, "success");
    const counter = new RoundCounter(setup.valkey);
    await dispatchOne(
      setup.ports({ valkey: counter, ready: new RecordedReady() }),
      eventOf(parent.id, fixture.flow.id),
    );
    expect(counter.rounds).toBe(5);
  });

  it("does not announce a child that still waits for another upstream, nor one that is skipped", async () => {
    const fixture = setup.flow();
    const [first, second, child, skipped] = [
      await fixture.member(),
      await fixture.member(),
      await fixture.member(),
      await fixture.member(),
    ];
    await fixture.edge(first, child);
    await fixture.edge(second, child);
    await fixture.edge(second, skipped);
    await fixture.finish(first, "success");
    await fixture.finish(second, "failed");
    const ready = new RecordedReady();
    const events = [eventOf(first.id, fixture.flow.id), eventOf(second.id, fixture.flow.id)];
    await dispatchAll(setup.ports({ ready }), events);
    expect(ready.announced).toEqual([]);
  });

  it("announces a child once if several upstreams of one batch release it", async () => {
    const fixture = setup.flow();
    const [first, second, child] = [await fixture.member(), await fixture.member(), await fixture.member()];
    await fixture.edge(first, child);
    await fixture.edge(second, child);
    await fixture.finish(first, "success");
    await fixture.finish(second, "success");
    const ready = new RecordedReady();
    const events = [eventOf(first.id, fixture.flow.id), eventOf(second.id, fixture.flow.id)];
    expect(await dispatchAll(setup.ports({ ready }), events)).toEqual([[], []]);
    expect(ready.ids).toEqual([child.id]);
  });

  it("announces nothing again when a message is redelivered after it was processed", async () => {
    const fixture = setup.flow();
    const { parent } = await family(fixture, 2);
    await fixture.finish(parent, "success");
    const ready = new RecordedReady();
    const event = eventOf(parent.id, fixture.flow.id);
    await dispatchOne(setup.ports({ ready }), event);
    await dispatchOne(setup.ports({ ready }), event);
    expect(ready.announced).toHaveLength(2);
  });

  it("a redelivery announces the children of a delivery that died before it announced them", async () => {
    const fixture = setup.flow();
    const { parent, children } = await family(fixture, 3);
    await fixture.finish(parent, "success");
    const event = eventOf(parent.id, fixture.flow.id);
    // As after a death between the calls and the send: the children are eligible and unmarked.
    await dispatchOne(setup.ports(), event);
    const ready = new RecordedReady();
    expect(await dispatchOne(setup.ports({ ready }), event)).toEqual([]);
    expect(ready.ids.toSorted()).toEqual(idsOf(children));
  });

  it("fails the message if a ready message is not accepted, and the redelivery announces only that child", async () => {
    const fixture = setup.flow();
    const { parent, children } = await family(fixture, 3);
    await fixture.finish(parent, "success");
    const event = eventOf(parent.id, fixture.flow.id);
    const ready = new RecordedReady();
    ready.fail = (position) => position === 1;
    expect(await dispatchOne(setup.ports({ ready }), event)).toHaveLength(1);
    expect(ready.announced).toHaveLength(2);
    ready.fail = undefined;
    expect(await dispatchOne(setup.ports({ ready }), event)).toEqual([]);
    expect(ready.ids.toSorted()).toEqual(idsOf(children));
  });

  it("announces no child that a worker has claimed since", async () => {
    const fixture = setup.flow();
    const { parent, children } = await family(fixture, 2);
    await fixture.finish(parent, "success");
    const event = eventOf(parent.id, fixture.flow.id);
    await dispatchOne(setup.ports(), event);
    const [claimed, other] = children;
    if (claimed === undefined || other === undefined) throw new Error("the family has two children");
    await fixture.claim(claimed);
    const ready = new RecordedReady();
    await dispatchOne(setup.ports({ ready }), event);
    expect(ready.ids).toEqual([other.id]);
  });

  it("leaves lanes without a ready queue to polling", async () => {
    const fixture = setup.flow();
    const { parent } = await family(fixture, 1);
    await fixture.finish(parent, "success");
    const ready = new RecordedReady();
    ready.announces = () => false;
    const ports = setup.ports({ ready });
    expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(ready.announced).toEqual([]);
  });

  it("sends messages that the worker's parser reads, to the queue of the lane", async () => {
    const fixture = setup.flow();
    const { parent, children } = await family(fixture, 12);
    await fixture.finish(parent, "success");
    const queueUrl = await createReadyQueue(setup.queue.client, setup.queue.queue);
    const ready = new SqsReadyPublisher(setup.queue.client, new Map([[LANE, queueUrl]]));
    const event = eventOf(parent.id, fixture.flow.id);
    expect(await dispatchOne(setup.ports({ ready }), event)).toEqual([]);
    const read = await drainReady(setup.queue.client, queueUrl);
    expect(read.map(({ executionId }) => executionId).sort()).toEqual(idsOf(children));
    expect(read[0]).toMatchObject({ flowId: fixture.flow.id, lane: LANE, kind: "task", root: parent.id });
  });
});

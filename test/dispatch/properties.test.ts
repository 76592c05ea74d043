import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { dispatch } from "#shared/dispatch/dispatcher.ts";
import type { ExecKeys } from "#shared/keys.ts";
import type { CompletionEvent } from "#shared/queue/message.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { finalStates, type ModelGraph } from "#test/dispatch/model.ts";
import { eventOf, portsOf, QueueProbe, stateOf } from "#test/support/dispatch.ts";
import { Scene } from "#test/support/scene.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

const DELIVERIES = 3;
const RUNS = 60;

const graphs: fc.Arbitrary<ModelGraph> = fc.integer({ min: 1, max: 10 }).chain((size) =>
  fc.record({
    outcomes: fc.array(
      fc.oneof(
        { weight: 3, arbitrary: fc.constant("success" as const) },
        { weight: 1, arbitrary: fc.constantFrom("failed" as const, "cancelled" as const) },
      ),
      { minLength: size, maxLength: size },
    ),
    edges: fc
      .subarray(
        Array.from({ length: size }, (_, down) =>
          Array.from({ length: down }, (_unused, up): [number, number] => [up, down]),
        ).flat(),
      )
      .map((edges) => edges.slice(0, 20)),
  }),
);

/** Picks below a bound, for as long as a run lasts; made by fast-check, so that a seed repeats it. */
type Choice = (below: number) => number;

describe.each(DEPLOYMENTS)("random graphs, random outcomes, random deliveries ($name)", ({ connect }) => {
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

  async function build(graph: ModelGraph): Promise<{ scene: Scene; tasks: ExecKeys[] }> {
    const scene = new Scene(valkey);
    const tasks: ExecKeys[] = [];
    for (const _ of graph.outcomes) tasks.push(await scene.member());
    for (const [up, down] of graph.edges) {
      const [upstream, downstream] = [tasks[up], tasks[down]];
      if (upstream && downstream) await scene.edge(upstream, downstream);
    }
    return { scene, tasks };
  }

  /** Ends one task that stands eligible; false where none does. */
  async function work(
    scene: Scene,
    tasks: readonly ExecKeys[],
    graph: ModelGraph,
    pick: Choice,
  ): Promise<ExecKeys | undefined> {
    const waiting: number[] = [];
    for (const [index, task] of tasks.entries())
      if ((await stateOf(scene, task)) === "waiting") waiting.push(index);
    const chosen = waiting[pick(Math.max(waiting.length, 1))];
    const task = chosen === undefined ? undefined : tasks[chosen];
    if (chosen === undefined || task === undefined) return undefined;
    const outcome = graph.outcomes[chosen];
    if (outcome === "cancelled") await scene.cancel(task);
    else await scene.finish(task, outcome ?? "success");
    return task;
  }

  it("end as the model says; redelivery changes nothing, and publishes at most twice what was skipped", async () => {
    let runs = 0;
    let skippedInAll = 0;
    await fc.assert(
      fc.asyncProperty(graphs, fc.infiniteStream(fc.nat()), async (graph, numbers) => {
        const pick: Choice = (below) => (numbers.next().value ?? 0) % below;
        const { scene, tasks } = await build(graph);
        const ports = portsOf(valkey, queue);
        const pool: CompletionEvent[] = [];
        let published = 0;
        for (;;) {
          const canDeliver = pool.length > 0;
          const ended = canDeliver && pick(2) === 0 ? undefined : await work(scene, tasks, graph, pick);
          if (ended !== undefined) {
            for (let copy = 0; copy < DELIVERIES; copy += 1) pool.push(eventOf(ended.id, scene.flow.id));
          } else if (canDeliver) {
            const batch: CompletionEvent[] = [];
            for (let left = 1 + pick(4); left > 0 && pool.length > 0; left -= 1) {
              batch.push(...pool.splice(pick(pool.length), 1));
            }
            expect((await dispatch(ports, batch)).flat()).toEqual([]);
            for (const event of await queue.drainEvents()) {
              published += 1;
              for (let copy = 0; copy < DELIVERIES; copy += 1) pool.push(event);
            }
          } else break;
        }
        const expected = finalStates(graph);
        expect(await Promise.all(tasks.map((task) => stateOf(scene, task)))).toEqual(expected);
        const skipped = expected.filter((state) => state === "skipped").length;
        expect(published).toBeGreaterThanOrEqual(skipped);
        expect(published).toBeLessThanOrEqual(2 * skipped);
        runs += 1;
        skippedInAll += skipped;
      }),
      { numRuns: RUNS },
    );
    // A generator that makes only successes would prove nothing.
    expect(runs).toBeGreaterThanOrEqual(RUNS);
    expect(skippedInAll).toBeGreaterThan(RUNS / 4);
  }, 180_000);

  it("a fully connected graph, 20 wide and 8 deep, is skipped to its last node when its root fails", async () => {
    const [WIDTH, DEPTH] = [20, 8];
    const scene = new Scene(valkey);
    const root = await scene.member();
    let layer = [root];
    const all: ExecKeys[] = [];
    for (let level = 0; level < DEPTH; level += 1) {
      const next = await Promise.all(Array.from({ length: WIDTH }, () => scene.member()));
      for (const upstream of layer) for (const downstream of next) await scene.edge(upstream, downstream);
      all.push(...next);
      layer = next;
    }
    await scene.finish(root, "failed");
    const ports = portsOf(valkey, queue);
    let events = [eventOf(root.id, scene.flow.id)];
    let published = 0;
    let deepest = 0;
    while (events.length > 0) {
      // Every message twice, the second time in another order.
      for (const delivery of [events, events.toReversed()]) {
        for (let start = 0; start < delivery.length; start += 10) {
          expect((await dispatch(ports, delivery.slice(start, start + 10))).flat()).toEqual([]);
        }
      }
      events = await queue.drainEvents();
      published += events.length;
      deepest = Math.max(deepest, ...events.map(({ depth }) => depth));
    }
    expect(new Set(await Promise.all(all.map((task) => stateOf(scene, task))))).toEqual(new Set(["skipped"]));
    expect(published).toBe(WIDTH * DEPTH);
    expect(deepest).toBe(DEPTH);
    expect(await scene.read("zcard", scene.index.lane(scene.lane).blockedDependencies)).toBe(0);
  }, 120_000);
});

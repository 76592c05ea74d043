import fc from "fast-check";
import { expect } from "vitest";
import type { ExecKeys } from "#shared/contract/keys.ts";
import type { CompletionEvent } from "#shared/contract/message.ts";
import type { DispatcherPorts } from "#shared/dispatch/dispatcher.ts";
import type { ModelGraph } from "#test/dispatch/model.ts";
import { dispatchAll, eventOf, portsOf, type QueueProbe, stateOf } from "#test/support/dispatch.ts";
import type { FlowFixture } from "#test/support/flow-fixture.ts";

const DELIVERIES = 3;

export const graphs: fc.Arbitrary<ModelGraph> = fc.integer({ min: 1, max: 10 }).chain((size) =>
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

/** Picks a number below a bound. fast-check generates the numbers, so that a seed repeats a run. */
export type Choice = (below: number) => number;

export interface RandomRun {
  /** Public states, by task. */
  readonly states: readonly string[];
  /** Tasks that were cancelled because a group was decided without them. */
  readonly siblings: ReadonlySet<number>;
  /** Groups whose siblings are still to be cancelled. */
  readonly pendingGroups: readonly unknown[];
  /** The number of members of the flow in each index of the lane, without empty indexes. */
  readonly indexed: Readonly<Record<string, number>>;
  /** The number of messages that the dispatcher sent. */
  readonly published: number;
}

/**
 * Runs a graph to its end. Workers and dispatches run in random order, with several random batches in flight, and
 * every message is delivered three times. With `crashes`, some dispatches die before or after they publish, and their
 * messages are redelivered.
 */
export async function runAtRandom(
  fixture: FlowFixture,
  queue: QueueProbe,
  graph: ModelGraph,
  pick: Choice,
  { crashes = false }: { readonly crashes?: boolean } = {},
): Promise<RandomRun> {
  const tasks = await build(fixture, graph);
  const ports = portsOf(fixture.valkey, queue);
  const pool: CompletionEvent[] = [];
  let published = 0;
  for (;;) {
    const canDeliver = pool.length > 0;
    const ended = canDeliver && pick(2) === 0 ? undefined : await work(fixture, tasks, graph, pick);
    if (ended !== undefined) {
      for (let copy = 0; copy < DELIVERIES; copy += 1) pool.push(eventOf(ended.id, fixture.flow.id));
    } else if (canDeliver) {
      const batches = Array.from({ length: 1 + pick(3) }, () => takeBatch(pool, pick));
      const redelivered = await Promise.all(
        batches.map((batch) =>
          deliver(crashes && pick(4) === 0 ? dying(ports, pick(2) === 0) : ports, batch),
        ),
      );
      pool.push(...redelivered.flat());
      // In a deployment the claims expire before the visibility timeout does.
      const claims = tasks.flatMap((task) => [task.cascadeClaim, fixture.flow.cancelClaim(task.id)]);
      if (crashes) await fixture.read("del", ...claims);
      for (const event of await queue.drainEvents()) {
        published += 1;
        for (let copy = 0; copy < DELIVERIES; copy += 1) pool.push(event);
      }
    } else break;
  }
  const states = await Promise.all(tasks.map((task) => stateOf(fixture, task)));
  const reasons = await Promise.all(
    tasks.map(({ core }) => fixture.read("hget", core, "cancellation_reason")),
  );
  return {
    states,
    siblings: new Set(reasons.flatMap((reason, task) => (/^sibling_/.test(String(reason)) ? [task] : []))),
    pendingGroups: [await fixture.read("smembers", fixture.index.pendingCancelGroups)].flat(),
    indexed: await indexesOf(fixture, tasks),
    published,
  };
}

function takeBatch(pool: CompletionEvent[], pick: Choice): CompletionEvent[] {
  const batch: CompletionEvent[] = [];
  for (let left = 1 + pick(4); left > 0 && pool.length > 0; left -= 1) {
    batch.push(...pool.splice(pick(pool.length), 1));
  }
  return batch;
}

/** Dispatches a batch and returns the events to be redelivered. */
async function deliver(
  ports: DispatcherPorts,
  batch: readonly CompletionEvent[],
): Promise<CompletionEvent[]> {
  let errors: Awaited<ReturnType<typeof dispatchAll>>;
  try {
    errors = await dispatchAll(ports, batch);
  } catch (error) {
    if (error === DEATH) return [...batch];
    throw error;
  }
  // Concurrent deliveries may fail each other with this error only.
  for (const error of errors.flat()) expect(error.code).toBe("cascade_under_way");
  return batch.filter((_, position) => (errors[position] ?? []).length > 0);
}

const DEATH = new Error("the process died");

function dying(ports: DispatcherPorts, hasPublished: boolean): DispatcherPorts {
  return {
    ...ports,
    publisher: {
      send: async (completions) => {
        if (hasPublished) await ports.publisher.send(completions);
        throw DEATH;
      },
    },
  };
}

async function indexesOf(fixture: FlowFixture, tasks: readonly ExecKeys[]): Promise<Record<string, number>> {
  const ids = new Set<unknown>(tasks.map(({ id }) => id));
  const indexed: Record<string, number> = {};
  for (const [name, key] of Object.entries(fixture.index.lane(fixture.lane))) {
    const members = await fixture.read("zrange", String(key), 0, -1);
    const ours = Array.isArray(members) ? members.filter((member: unknown) => ids.has(member)).length : 0;
    if (ours > 0) indexed[name] = ours;
  }
  return indexed;
}

async function build(fixture: FlowFixture, graph: ModelGraph): Promise<ExecKeys[]> {
  const tasks: ExecKeys[] = [];
  for (const number of graph.outcomes.keys()) {
    const task = await fixture.member();
    const policy = graph.groups?.[number];
    if (policy) await fixture.group(task, policy);
    tasks.push(task);
  }
  for (const [up, down] of graph.edges) {
    const [upstream, downstream] = [tasks[up], tasks[down]];
    if (upstream && downstream) await fixture.edge(upstream, downstream);
  }
  return tasks;
}

/** Ends one eligible task; undefined if there is none. */
async function work(
  fixture: FlowFixture,
  tasks: readonly ExecKeys[],
  graph: ModelGraph,
  pick: Choice,
): Promise<ExecKeys | undefined> {
  const waiting: number[] = [];
  for (const [index, task] of tasks.entries())
    if ((await stateOf(fixture, task)) === "waiting") waiting.push(index);
  const chosen = waiting[pick(Math.max(waiting.length, 1))];
  const task = chosen === undefined ? undefined : tasks[chosen];
  if (chosen === undefined || task === undefined) return undefined;
  const outcome = graph.outcomes[chosen];
  if (outcome === "cancelled") await fixture.cancel(task);
  else await fixture.finish(task, outcome ?? "success");
  return task;
}

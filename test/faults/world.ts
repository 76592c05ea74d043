/** One case's flow: a graph in Valkey, the worker that takes what is eligible, and how it all stands. */

import { submitFlow } from "#sdk/submission/submit.ts";
import { workBatch } from "#sdk/worker/worker.ts";
import { command, type ValkeyCommand } from "#shared/contract/command.ts";
import {
  type ExecutionId,
  type LaneId,
  parseAttemptIndex,
  parseFlowId,
  parseLaneId,
  unwrap,
} from "#shared/contract/ids.ts";
import type { ExecKeys, FlowKeys, IndexKeys } from "#shared/contract/keys.ts";
import type { Completion } from "#shared/contract/message.ts";
import { cancelExecution } from "#shared/contract/ownership.ts";
import { fieldText } from "#shared/contract/record.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import { doneOrThrow, valueOrThrow } from "#shared/valkey/batches.ts";
import type { ModelGraph } from "#test/dispatch/model.ts";
import { expectationsOf } from "#test/faults/graph.ts";
import { type Findings, judge, type Observed } from "#test/faults/judge.ts";
import type { Random } from "#test/faults/random.ts";
import type { Rig } from "#test/faults/rig.ts";

const LANE: LaneId = unwrap(parseLaneId("default"));
const IDENTITY = { workerId: "faults", instanceId: "faults-1" };
const FIRST_ATTEMPT = unwrap(parseAttemptIndex("0"));

export interface WorldOptions {
  /** Where a worker sends its completions; the queue unless given. */
  readonly completions?: CompletionPublisher;
  /** Edges of the graph that are not submitted with it. */
  readonly late?: ModelGraph["edges"];
  /** The worker takes what it may in the tasks' order. */
  readonly isInOrder?: boolean;
}

export interface Allowances {
  /** More than so many cascade messages are too many. */
  readonly mostCascades?: number;
  /** Runs that a task has besides the model's. */
  readonly moreRuns?: ReadonlyMap<number, number>;
  /** Whether an execution that has ended may have edges that nobody resolved: a message of theirs never came. */
  readonly mayLeaveEdges?: boolean;
}

export class World {
  readonly graph: ModelGraph;
  readonly flow: FlowKeys;
  readonly index: IndexKeys;
  readonly lane = LANE;
  /** In the order of the graph's tasks. */
  readonly tasks: readonly ExecKeys[];
  /** How each task ends if it runs; a case may change it before it does. */
  readonly outcomes: ModelGraph["outcomes"][number][];
  readonly #rig: Rig;
  readonly #completions: CompletionPublisher;
  readonly #numberOf: ReadonlyMap<ExecutionId, number>;
  readonly #cascadesBefore: number;

  private constructor(
    rig: Rig,
    graph: ModelGraph,
    flow: FlowKeys,
    tasks: readonly ExecKeys[],
    publisher: CompletionPublisher,
  ) {
    this.#rig = rig;
    this.graph = graph;
    this.flow = flow;
    this.index = rig.router.indexKeys(flow.partition);
    this.tasks = tasks;
    this.outcomes = [...graph.outcomes];
    this.#completions = publisher;
    this.#numberOf = new Map(tasks.map(({ id }, task) => [id, task]));
    this.#cascadesBefore = rig.cascades;
  }

  /** Submits the graph as a flow of its own. */
  static async build(
    rig: Rig,
    random: Random,
    graph: ModelGraph,
    options: WorldOptions = {},
  ): Promise<World> {
    const flowId = unwrap(parseFlowId(random.uuid()));
    const workflow = {
      name: "faults",
      tasks: graph.outcomes.map((_, task) => ({
        id: String(task),
        lane: LANE,
        priority: options.isInOrder ? graph.outcomes.length - task : 0,
        payload: "",
      })),
      edges: graph.edges
        .filter((edge) => options.late?.includes(edge) !== true)
        .map(([from, to]) => ({ from: String(from), to: String(to), dataPassing: false })),
    };
    const deps = { valkey: rig.valkey, router: rig.router, completions: rig.completions };
    const { executions } = await submitFlow(deps, workflow, { flowId });
    const tasks = [...executions.values()].map((id) => rig.router.execKeys(id));
    return new World(rig, graph, rig.router.flowKeys(flowId), tasks, options.completions ?? rig.completions);
  }

  /** Takes up to `limit` eligible executions and ends them; how many there were to take. */
  async work(limit: number): Promise<number> {
    const eligible = await this.#eligible();
    for (const task of eligible) {
      if (this.outcomes[task] !== "cancelled") continue;
      await this.#cancel(task);
      return 1;
    }
    if (eligible.length === 0) return 0;
    const worked = await workBatch(
      {
        valkey: this.#rig.valkey,
        router: this.#rig.router,
        completions: this.#completions,
        identity: IDENTITY,
      },
      { partition: this.flow.partition, lane: LANE },
      ({ id }) =>
        Promise.resolve(
          this.outcomes[this.#numberOf.get(id) ?? -1] === "success"
            ? { outcome: "success", result: "done" }
            : { outcome: "failed", reason: "it was to fail" },
        ),
      { limit },
    );
    return worked.length;
  }

  /** The completion of a task, as whoever ended it sends it. */
  completionOf(task: number, outcome: Completion["outcome"]): Completion {
    const { id } = this.keysOf(task);
    return { executionId: id, flowId: this.flow.id, outcome, depth: 0, root: id };
  }

  /** Calls one of the contract's functions; throws on a refusal. */
  async call(call: ValkeyCommand): Promise<readonly string[]> {
    const [result] = await this.#rig.valkey.pipelined([call]);
    return doneOrThrow(String(call.args[0]), valueOrThrow(result)).fields;
  }

  async read(name: string, ...args: (string | number)[]): Promise<unknown> {
    const [result] = await this.#rig.valkey.pipelined([command(this.flow.partition, name, ...args)]);
    return valueOrThrow(result);
  }

  /** How every execution stands now. */
  async observe(): Promise<Observed[]> {
    const lanes = Object.entries(this.index.lane(LANE));
    const commands = this.tasks.flatMap(({ partition, core, depsMeta, depsUnresolved, id }) => [
      command(partition, "hmget", core, "public_state", "total_attempt_count", "current_lease_epoch"),
      command(partition, "hmget", depsMeta, "unsatisfied_required_count", "impossible_required_count"),
      command(partition, "scard", depsUnresolved),
      ...lanes.map(([, key]) => command(partition, "zscore", String(key), id)),
    ]);
    const values = (await this.#rig.valkey.pipelined(commands)).map(valueOrThrow).values();
    return this.tasks.map(() => {
      const [state = "", attempts, epoch] = textsOf(values.next().value);
      const [unsatisfied, impossible] = textsOf(values.next().value);
      const unresolved = Number(values.next().value);
      const indexes = lanes.flatMap(([name]) => (fieldText(values.next().value) === "" ? [] : [name]));
      return {
        state,
        indexes,
        attempts: Number(attempts),
        leaseEpoch: Number(epoch),
        unsatisfied: Number(unsatisfied),
        impossible: Number(impossible),
        unresolved,
      };
    });
  }

  /** What has gone wrong, when everything that was to come has come. */
  async judge({ mostCascades, moreRuns, mayLeaveEdges = false }: Allowances = {}): Promise<Findings> {
    const expected = expectationsOf({ ...this.graph, outcomes: this.outcomes });
    return judge(
      expected.map((one, task) => ({ ...one, runs: one.runs + (moreRuns?.get(task) ?? 0) })),
      {
        tasks: await this.observe(),
        cascades: this.#rig.cascades - this.#cascadesBefore,
        mayLeaveEdges,
        ...(mostCascades === undefined ? {} : { mostCascades }),
      },
    );
  }

  async #eligible(): Promise<number[]> {
    const ids = await this.read("zrange", this.index.lane(LANE).eligible, 0, -1);
    const known: ReadonlyMap<string, number> = this.#numberOf;
    return (Array.isArray(ids) ? ids : []).flatMap((id: unknown) => known.get(String(id)) ?? []);
  }

  async #cancel(task: number): Promise<void> {
    const keys = this.keysOf(task);
    const target = { keys, index: this.index, lane: LANE };
    await this.call(
      cancelExecution(target, IDENTITY, FIRST_ATTEMPT, { reason: "not wanted", source: "operator" }),
    );
    const [sent] = await this.#completions.send([this.completionOf(task, "cancelled")]);
    if (sent?.ok === false) throw sent.error;
  }

  keysOf(task: number): ExecKeys {
    const keys = this.tasks[task];
    if (keys === undefined) throw new RangeError(`the graph has no task ${task}`);
    return keys;
  }
}

function textsOf(value: unknown): string[] {
  return Array.isArray(value) ? value.map(fieldText) : [];
}

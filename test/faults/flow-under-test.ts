/** The flow of one case: its graph in Valkey, a worker for it, and its observed state. */

import { submitFlow } from "#sdk/submission/submit.ts";
import type { Task } from "#sdk/submission/workflow.ts";
import type { RunOutcome } from "#sdk/worker/finish.ts";
import { type Execution, type ExecutionHandler, workBatch } from "#sdk/worker/worker.ts";
import { command, type Pipelines, type ValkeyCommand } from "#shared/contract/command.ts";
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
import { compareWithModel, type Findings, type Observed } from "#test/faults/findings.ts";
import { expectationsOf } from "#test/faults/graph.ts";
import type { Random } from "#test/faults/random.ts";
import type { TestBed } from "#test/faults/test-bed.ts";

const LANE: LaneId = unwrap(parseLaneId("default"));
const IDENTITY = { workerId: "faults", instanceId: "faults-1" };
const FIRST_ATTEMPT = unwrap(parseAttemptIndex("0"));

export interface FlowOptions {
  /** The publisher of the worker; the queue by default. */
  readonly completions?: CompletionPublisher;
  /** Edges of the graph that are not submitted with the flow. */
  readonly late?: ModelGraph["edges"];
  /** The worker claims eligible tasks in the order of the graph. */
  readonly isInOrder?: boolean;
  readonly worker?: WorkerOptions;
  /** Overrides parts of a task. */
  readonly taskOf?: (task: number) => Partial<Task>;
  /** Replaces the worker. Also called if no task is eligible. Returns how many executions it worked on. */
  readonly round?: (flow: FlowUnderTest, run: ExecutionHandler, limit: number) => Promise<number>;
}

/** How the worker connects, and what happens around its rounds. By default, it uses the connection of the harness. */
export interface WorkerOptions {
  readonly valkey: Pipelines;
  /** Submits the flow and writes the outcomes. */
  readonly replicated: Pipelines;
  /** Called between the claims and the outcomes of a round, for each execution that is about to end. */
  beforeOutcomes(claimed: ExecKeys): Promise<void>;
  /** Called after each round. */
  afterRound(): Promise<void>;
}

export interface Allowances {
  /** The allowed number of cascade messages. */
  readonly maxCascades?: number;
  /** Additional runs by task. */
  readonly moreRuns?: ReadonlyMap<number, number>;
  /** Final states that the model does not know, by task. */
  readonly states?: ReadonlyMap<number, string>;
  /** Whether an ended execution may have unresolved edges, because a message was never sent. */
  readonly mayLeaveEdges?: boolean;
}

export class FlowUnderTest {
  readonly graph: ModelGraph;
  readonly flowKeys: FlowKeys;
  readonly index: IndexKeys;
  readonly lane = LANE;
  /** In the order of the tasks of the graph. */
  readonly tasks: readonly ExecKeys[];
  /** How each task ends if it runs. A case may change it before the task runs. */
  readonly outcomes: ModelGraph["outcomes"][number][];
  readonly #bed: TestBed;
  readonly #completions: CompletionPublisher;
  readonly #numberOf: ReadonlyMap<ExecutionId, number>;
  readonly #cascadesBefore: number;
  readonly #worker: WorkerOptions | undefined;
  readonly #round: FlowOptions["round"];

  private constructor(
    bed: TestBed,
    graph: ModelGraph,
    flowKeys: FlowKeys,
    tasks: readonly ExecKeys[],
    { completions = bed.completions, worker, round }: FlowOptions,
  ) {
    this.#bed = bed;
    this.#worker = worker;
    this.#round = round;
    this.graph = graph;
    this.flowKeys = flowKeys;
    this.index = bed.router.indexKeys(flowKeys.partition);
    this.tasks = tasks;
    this.outcomes = [...graph.outcomes];
    this.#completions = completions;
    this.#numberOf = new Map(tasks.map(({ id }, task) => [id, task]));
    this.#cascadesBefore = bed.cascades;
  }

  /** Submits the graph as a new flow. */
  static async build(
    bed: TestBed,
    random: Random,
    graph: ModelGraph,
    options: FlowOptions = {},
  ): Promise<FlowUnderTest> {
    const flowId = unwrap(parseFlowId(random.uuid()));
    const workflow = {
      name: "faults",
      tasks: graph.outcomes.map((outcome, task) => ({
        id: String(task),
        lane: LANE,
        priority: options.isInOrder ? graph.outcomes.length - task : 0,
        // For workers in processes of their own.
        payload: outcome,
        ...options.taskOf?.(task),
      })),
      edges: graph.edges
        .filter((edge) => options.late?.includes(edge) !== true)
        .map(([from, to]) => ({ from: String(from), to: String(to), dataPassing: false })),
    };
    const valkey = options.worker?.replicated ?? bed.valkey;
    const deps = { valkey, router: bed.router, completions: bed.completions };
    const { executions } = await submitFlow(deps, workflow, { flowId });
    const tasks = [...executions.values()].map((id) => bed.router.execKeys(id));
    return new FlowUnderTest(bed, graph, bed.router.flowKeys(flowId), tasks, options);
  }

  /** Claims and ends up to `limit` eligible executions, or interrupted ones. Returns their number. */
  async work(limit: number, { mayReclaim = false } = {}): Promise<number> {
    const eligible = await this.#eligible();
    for (const task of eligible) {
      if (this.outcomes[task] !== "cancelled") continue;
      await this.#cancel(task);
      return 1;
    }
    if (this.#round !== undefined) return this.#round(this, this.run, limit);
    if (eligible.length === 0 && !mayReclaim) return 0;
    const worked = await workBatch(
      {
        valkey: this.#worker?.valkey ?? this.#bed.valkey,
        ...(this.#worker === undefined ? {} : { replicated: this.#worker.replicated }),
        router: this.#bed.router,
        completions: this.#completions,
        identity: IDENTITY,
      },
      { partition: this.flowKeys.partition, lane: LANE },
      async (execution) => {
        await this.#worker?.beforeOutcomes(this.#bed.router.execKeys(execution.id));
        return this.run(execution);
      },
      { limit },
    );
    await this.#worker?.afterRound();
    return worked.length;
  }

  /** Runs an execution as the model says. */
  readonly run = ({ id }: Pick<Execution, "id">): Promise<RunOutcome> =>
    Promise.resolve(
      this.outcomes[this.#numberOf.get(id) ?? -1] === "success"
        ? { outcome: "success", result: "done" }
        : { outcome: "failed", reason: "the model says so" },
    );

  /** The completion of a task. */
  completionOf(task: number, outcome: Completion["outcome"]): Completion {
    const { id } = this.keysOf(task);
    return { executionId: id, flowId: this.flowKeys.id, outcome, depth: 0, root: id };
  }

  /** Calls a library function. Throws on a refusal. */
  async call(call: ValkeyCommand): Promise<readonly string[]> {
    const [result] = await this.#bed.valkey.pipelined([call]);
    return doneOrThrow(String(call.args[0]), valueOrThrow(result)).fields;
  }

  async read(name: string, ...args: (string | number)[]): Promise<unknown> {
    const [result] = await this.#bed.valkey.pipelined([command(this.flowKeys.partition, name, ...args)]);
    return valueOrThrow(result);
  }

  /** The current state of every execution. */
  async observe(): Promise<Observed[]> {
    const lanes = Object.entries(this.index.lane(LANE));
    const commands = this.tasks.flatMap(({ partition, core, depsMeta, depsUnresolved, id }) => [
      command(partition, "hmget", core, "public_state", "total_attempt_count", "current_lease_epoch"),
      command(partition, "hmget", depsMeta, "unsatisfied_required_count", "impossible_required_count"),
      command(partition, "scard", depsUnresolved),
      ...lanes.map(([, key]) => command(partition, "zscore", String(key), id)),
    ]);
    const values = (await this.#bed.valkey.pipelined(commands)).map(valueOrThrow).values();
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

  /** Compares the state with the model, once no message and no eligible task is left. */
  async compareWithModel({
    maxCascades,
    moreRuns,
    states,
    mayLeaveEdges = false,
  }: Allowances = {}): Promise<Findings> {
    const expected = expectationsOf({ ...this.graph, outcomes: this.outcomes });
    return compareWithModel(
      expected.map((one, task) => ({
        ...one,
        state: states?.get(task) ?? one.state,
        runs: one.runs + (moreRuns?.get(task) ?? 0),
      })),
      {
        tasks: await this.observe(),
        cascades: this.#bed.cascades - this.#cascadesBefore,
        mayLeaveEdges,
        ...(maxCascades === undefined ? {} : { maxCascades }),
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

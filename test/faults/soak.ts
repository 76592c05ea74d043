/**
 * Many flows at once, with workers that are killed at random, completions that are lost at random, tasks that kill every
 * worker, retries, and the real dispatch and reconcile functions. At the end every execution must have ended as the model
 * says, as often as its lost leases and retries explain. Then the reconciler deletes all flows, and no key may stay.
 */

import { setTimeout as sleep } from "node:timers/promises";
import type { RetryPolicy, Task } from "#sdk/submission/workflow.ts";
import { command } from "#shared/contract/command.ts";
import { fieldText } from "#shared/contract/record.ts";
import { messageOf } from "#shared/errors.ts";
import { valueOrThrow } from "#shared/valkey/batches.ts";
import type { ModelGraph } from "#test/dispatch/model.ts";
import { type Findings, join } from "#test/faults/findings.ts";
import { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { dataBytes, purge } from "#test/faults/purge.ts";
import type { Random } from "#test/faults/random.ts";
import { impatientReconciler } from "#test/faults/reconcilers.ts";
import { Standalone } from "#test/faults/servers.ts";
import { TestBed } from "#test/faults/test-bed.ts";
import { type Pass, WorkerChild } from "#test/faults/worker-child.ts";

export interface SoakSize {
  readonly flows: number;
  readonly executions: number;
  readonly workers: number;
  /** Tasks that kill every worker that runs them. */
  readonly poison: number;
}

export interface SoakCounts {
  /** Worker processes that were killed while they worked. */
  readonly kills: number;
  /** Attempts that were repeated because a lease was lost. */
  readonly reclaims: number;
  readonly retries: number;
  /** Completions that were not sent. A killed worker's are not known. */
  readonly dropped: number;
  readonly sweeps: number;
  /** The size of the data set before the flows, after their end, and after their deletion. */
  readonly bytesBefore: number;
  readonly bytesEnded: number;
  readonly bytesPurged: number;
  readonly seconds: number;
}

const PARTITIONS = 8;
const LOST_PERCENT = 3;
const MAX_UPSTREAMS = 3;
const RECLAIM_LIMIT = 5;
const RETRY: RetryPolicy = { attempts: 2, backoff: { type: "fixed", delayMs: 200 } };
/** A worker that stalls for longer loses its leases, which is allowed. */
const LEASE_MS = 2_000;
const TASK_MS = 50;
const LIMIT = 10;
const MAX_PASSES = 4;
const SWEEP_INTERVAL_MS = 500;
const GRACE_SECONDS = 2;
/** Marks of deleted flows, and what the server itself keeps after its first work: about 0.8 MB, whatever the size. */
const MAX_BYTES_LEFT = 1_500_000;
const DISPATCHERS = 2;
const BATCH = 10;
const IDLE_MS = 20;
/** Without an execution that ends for this long, the soak gives up. */
const STUCK_MS = 180_000;

export async function startSoakBed(): Promise<TestBed> {
  return TestBed.start(await Standalone.start(), { partitions: PARTITIONS, isDirect: true });
}

/** Runs the soak. The findings name what is wrong at its end. */
export async function soak(
  bed: TestBed,
  random: Random,
  size: SoakSize,
): Promise<{ readonly findings: Findings; readonly counts: SoakCounts }> {
  const startedAt = performance.now();
  const bytesBefore = await dataBytes(bed);
  const flows = await submitFlows(bed, random, size);
  const run = new Run(bed, random);
  const failures = await run.untilEnded(flows, size);
  const observed = await Promise.all(flows.map((flow) => compare(bed, flow)));
  const bytesEnded = await dataBytes(bed);
  const inconsistent = await bed.inconsistencies();
  const leftBehind = (await purge(bed, flows)).map((key) => `left behind: ${key}`);
  const bytesPurged = await dataBytes(bed);
  if (bytesPurged - bytesBefore > MAX_BYTES_LEFT) {
    leftBehind.push(`left behind: ${bytesPurged - bytesBefore} bytes of ${bytesEnded - bytesBefore}`);
  }
  return {
    findings: join([
      ...observed.map((one) => one.findings),
      {
        lost: failures,
        wronglySkipped: [],
        duplicated: [],
        inconsistent: [...inconsistent, ...leftBehind, ...(await bed.inconsistencies())],
      },
    ]),
    counts: {
      kills: run.kills,
      dropped: run.dropped,
      sweeps: run.sweeps,
      reclaims: observed.reduce((sum, { reclaims }) => sum + reclaims, 0),
      retries: observed.reduce((sum, { retries }) => sum + retries, 0),
      bytesBefore,
      bytesEnded,
      bytesPurged,
      seconds: Math.round((performance.now() - startedAt) / 100) / 10,
    },
  };
}

async function submitFlows(bed: TestBed, random: Random, size: SoakSize): Promise<FlowUnderTest[]> {
  const flows: FlowUnderTest[] = [];
  const perFlow = Math.floor(size.executions / size.flows);
  for (let flow = 0; flow < size.flows; flow += 1) {
    const isLast = flow === size.flows - 1;
    const graph = soakGraph(random, isLast ? size.executions - perFlow * flow : perFlow);
    // A poisonous task is a root, so that it always runs.
    const poison = flow < size.poison ? 0 : undefined;
    if (poison !== undefined) graph.outcomes[poison] = "failed";
    flows.push(
      await FlowUnderTest.build(bed, random, graph, {
        taskOf: (task): Partial<Task> => {
          if (task === poison) return { payload: "poison" };
          return graph.outcomes[task] === "failed" && random.chance(50) ? { retry: RETRY } : {};
        },
      }),
    );
  }
  return flows;
}

/** Every task has up to three upstreams among those before it. One of twelve fails. */
function soakGraph(
  random: Random,
  tasks: number,
): ModelGraph & { readonly outcomes: ModelGraph["outcomes"][number][] } {
  const outcomes = Array.from({ length: tasks }, () =>
    random.below(12) === 0 ? ("failed" as const) : ("success" as const),
  );
  const edges = outcomes.flatMap((_, down) => {
    const upstreams = new Set(
      Array.from({ length: random.below(MAX_UPSTREAMS + 1) }, () => random.below(down)),
    );
    return down === 0 ? [] : [...upstreams].map((up) => [up, down] as const);
  });
  return { outcomes, edges };
}

/** The processes of a soak, until every execution has ended. */
class Run {
  kills = 0;
  dropped = 0;
  sweeps = 0;
  readonly #bed: TestBed;
  readonly #random: Random;
  readonly #stopping = new AbortController();
  readonly #failures: string[] = [];

  constructor(bed: TestBed, random: Random) {
    this.#bed = bed;
    this.#random = random;
  }

  /** Returns what failed. */
  async untilEnded(flows: readonly FlowUnderTest[], { workers, executions }: SoakSize): Promise<string[]> {
    const lane = flows[0]?.lane ?? "";
    const loops = [
      ...Array.from({ length: workers }, (_, number) => this.#workerLoop(number, lane)),
      ...Array.from({ length: DISPATCHERS }, (_, number) => this.#dispatchLoop(number)),
      this.#reconcileLoop(),
    ].map((loop) =>
      loop.catch((error: unknown) => {
        this.#failures.push(messageOf(error));
        this.#stopping.abort();
      }),
    );
    let ended = 0;
    for (let movedAt = performance.now(); !this.#isStopping; ) {
      const now = await this.#ended(flows);
      if (now > ended) movedAt = performance.now();
      ended = now;
      if (ended >= executions || performance.now() - movedAt > STUCK_MS) this.#stopping.abort();
      await sleep(IDLE_MS * 10);
    }
    await Promise.all(loops);
    await this.#drainQueue();
    return this.#failures;
  }

  get #isStopping(): boolean {
    return this.#stopping.signal.aborted;
  }

  async #ended(flows: readonly FlowUnderTest[]): Promise<number> {
    const keys = new Map(flows.map(({ index, lane }) => [index.partition, index.lane(lane).terminal]));
    const counts = await this.#bed.valkey.pipelined(
      [...keys].map(([partition, terminal]) => command(partition, "zcard", terminal)),
    );
    return counts.reduce((sum, count) => sum + Number(valueOrThrow(count)), 0);
  }

  /** One worker process after the other. Each is killed after some passes, so that a slow machine makes progress. */
  async #workerLoop(number: number, lane: string): Promise<void> {
    for (let life = 0; !this.#isStopping; life += 1) {
      await using child = await WorkerChild.start(this.#bed, `worker-${number}-${life}`);
      for (let left = this.#random.below(MAX_PASSES); !this.#isStopping && !child.hasExited; left -= 1) {
        const passing = child.pass(this.#pass(lane));
        if (left <= 0) await this.#killSoon(child);
        const result = await passing;
        if (result === undefined) this.kills += 1;
        else this.dropped += result.dropped;
        if (result?.error !== undefined) throw new Error(`a worker failed: ${result.error}`);
        if (result?.statuses.length === 0) await sleep(IDLE_MS);
      }
    }
  }

  async #killSoon(child: WorkerChild): Promise<void> {
    await sleep(this.#random.below(PARTITIONS * TASK_MS));
    await child.kill();
  }

  #pass(lane: string): Pass {
    const partitions = this.#random.shuffled(this.#bed.router.partitions);
    const terms = { leaseTtlMs: LEASE_MS, taskMs: TASK_MS, lostPercent: LOST_PERCENT, limit: LIMIT };
    return { partitions, lane, ...terms, dies: false };
  }

  async #dispatchLoop(number: number): Promise<void> {
    const fn = number === 0 ? this.#bed.fn : this.#bed.startFunction();
    while (!this.#isStopping) {
      const records = await this.#bed.receive(BATCH);
      if (records.length > 0) await this.#bed.deliver(records, fn);
      else await sleep(IDLE_MS);
    }
  }

  async #reconcileLoop(): Promise<void> {
    const fn = impatientReconciler(this.#bed, GRACE_SECONDS);
    while (!this.#isStopping) {
      await fn.invoke({});
      this.sweeps += 1;
      await sleep(SWEEP_INTERVAL_MS);
    }
  }

  async #drainQueue(): Promise<void> {
    for (;;) {
      const records = await this.#bed.receive(BATCH);
      if (records.length === 0) return;
      await this.#bed.deliver(records);
    }
  }
}

async function compare(
  bed: TestBed,
  flow: FlowUnderTest,
): Promise<{ readonly findings: Findings; readonly reclaims: number; readonly retries: number }> {
  const records = await bed.valkey.pipelined(
    flow.tasks.map(({ partition, core }) =>
      command(partition, "hmget", core, "lease_reclaim_count", "retry_count", "failure_reason"),
    ),
  );
  const counts = records.map((record) => {
    const values = valueOrThrow(record);
    const [reclaims = "", retries = "", reason = ""] = Array.isArray(values) ? values.map(fieldText) : [];
    return { reclaims: Number(reclaims), retries: Number(retries), reason };
  });
  const moreRuns = new Map(counts.map(({ reclaims, retries }, task) => [task, reclaims + retries]));
  const excessive = counts.flatMap(({ reclaims, retries }, task) =>
    reclaims > RECLAIM_LIMIT || retries >= RETRY.attempts
      ? [`task ${task}: ${reclaims} reclaims and ${retries} retries`]
      : [],
  );
  const findings = await flow.compareWithModel({
    moreRuns,
    mayLeaveEdges: true,
    maxCascades: Number.POSITIVE_INFINITY,
  });
  return {
    findings: join([findings, { lost: [], wronglySkipped: [], duplicated: excessive, inconsistent: [] }]),
    reclaims: counts.reduce((sum, { reclaims }) => sum + reclaims, 0),
    retries: counts.reduce((sum, { retries }) => sum + retries, 0),
  };
}

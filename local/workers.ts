import { setTimeout as sleep } from "node:timers/promises";
import { promoteDelayed } from "#shared/contract/ownership.ts";
import { messageOf } from "#shared/errors.ts";
import { type LaneId, type Partition, parseExecutionId } from "#shared/ids.ts";
import { ExecKeys, IndexKeys } from "#shared/keys.ts";
import type { CompletionSink } from "#shared/queue/completion.ts";
import { command, type Pipelines } from "#shared/valkey/command.ts";
import { type Run, workBatch } from "#shared/worker/worker.ts";

export interface WorkersOptions {
  readonly valkey: Pipelines;
  readonly completions: CompletionSink;
  readonly partition: Partition;
  readonly lanes: readonly LaneId[];
  /** How many workers there are; each looks into every lane. */
  readonly count: number;
  readonly run: Run;
  readonly onFault: (fault: string) => void;
}

/** Executions that one worker takes at once. */
const BATCH = 25;
const IDLE_MS = 10;
const PAUSE_AFTER_FAULT_MS = 250;

/** Workers that take what is eligible in one partition until they are stopped. */
export class Workers {
  readonly #options: WorkersOptions;
  readonly #stopping = new AbortController();
  readonly #loops: Promise<void>[] = [];
  #busy = 0;

  constructor(options: WorkersOptions) {
    this.#options = options;
  }

  /** Whether any of them has work at hand, up to and with the sending of its completion. */
  get isBusy(): boolean {
    return this.#busy > 0;
  }

  start(): void {
    for (let number = 1; number <= this.#options.count; number += 1) this.#loops.push(this.#loop(number));
  }

  /** Takes nothing more and waits until what was taken is finished. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await Promise.all(this.#loops);
  }

  async #loop(number: number): Promise<void> {
    const identity = { workerId: `local-${number}`, instanceId: `local-${process.pid}-${number}` };
    while (!this.#stopping.signal.aborted) {
      let worked = 0;
      let idle = IDLE_MS;
      this.#busy += 1;
      try {
        for (const lane of this.#options.lanes) worked += await this.#workOn(lane, identity);
      } catch (error) {
        this.#options.onFault(`a worker failed: ${messageOf(error)}`);
        idle = PAUSE_AFTER_FAULT_MS;
      } finally {
        this.#busy -= 1;
      }
      if (worked === 0) await sleep(idle);
    }
  }

  async #workOn(lane: LaneId, identity: { workerId: string; instanceId: string }): Promise<number> {
    const { valkey, completions, partition, run } = this.#options;
    await promoteDue(valkey, partition, lane);
    const worked = await workBatch({ valkey, completions, identity }, { partition, lane }, run, {
      limit: BATCH,
    });
    return worked.length;
  }
}

/** Executions whose time has come become eligible. A refusal means that another worker was quicker. */
async function promoteDue(valkey: Pipelines, partition: Partition, lane: LaneId): Promise<void> {
  const index = new IndexKeys(partition);
  const { delayed } = index.lane(lane);
  const [due] = await valkey.pipelined([
    command(partition, "zrange", delayed, "-inf", Date.now(), "byscore", "limit", 0, BATCH),
  ]);
  if (due?.ok !== true) throw due?.error ?? new Error("no reply about the delayed executions");
  const ids: readonly unknown[] = Array.isArray(due.value) ? due.value : [];
  await valkey.pipelined(
    ids.flatMap((id) => {
      const parsed = parseExecutionId(id);
      if (!parsed.ok) return [];
      return [promoteDelayed({ keys: new ExecKeys(partition, parsed.value), index, lane }, Date.now())];
    }),
  );
}

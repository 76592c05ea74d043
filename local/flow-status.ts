import { command, type Pipelines } from "#shared/contract/command.ts";
import type { ExecutionId } from "#shared/contract/ids.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText, isTerminalOutcome, type TerminalOutcome } from "#shared/contract/record.ts";
import { ValkeyError } from "#shared/errors.ts";

/** How many of a flow's executions are in which state. The numbers add up to all of them. */
export interface FlowStatus {
  /** Executions that have ended, by outcome. */
  readonly ended: Readonly<Record<TerminalOutcome, number>>;
  /** Waiting for a worker. */
  readonly ready: number;
  /** Waiting for the time of a retry. */
  readonly delayed: number;
  readonly active: number;
  /** Waiting for upstream executions, or in a state that this stack does not know. */
  readonly blocked: number;
}

/** The state of one execution. */
export type TaskState = TerminalOutcome | "ready" | "delayed" | "active" | "blocked";

/** Executions that are read in one pipeline. */
const CHUNK = 2_000;

/**
 * Reads the states of a flow's executions from their records. An execution that has ended is not read again, since
 * this stack never replays one.
 */
export class FlowStatusCounter {
  readonly #valkey: Pipelines;
  readonly #router: PartitionRouter;
  readonly #ended: Record<TerminalOutcome, number> = {
    success: 0,
    failed: 0,
    cancelled: 0,
    expired: 0,
    skipped: 0,
  };
  readonly #states = new Map<ExecutionId, TaskState>();
  #pending: readonly ExecutionId[];

  constructor(valkey: Pipelines, router: PartitionRouter, executions: Iterable<ExecutionId>) {
    this.#valkey = valkey;
    this.#router = router;
    this.#pending = [...executions];
  }

  /** Executions that had not ended at the last count. */
  get unfinished(): number {
    return this.#pending.length;
  }

  /** The state of each execution at the last count. */
  get states(): ReadonlyMap<ExecutionId, TaskState> {
    return this.#states;
  }

  /** Counts again. Throws a ValkeyError when a record cannot be read. */
  async take(): Promise<FlowStatus> {
    const pending: ExecutionId[] = [];
    const counts = { ready: 0, delayed: 0, active: 0, blocked: 0 };
    for (let start = 0; start < this.#pending.length; start += CHUNK) {
      for (const [id, phase, outcome, eligibility] of await this.#read(
        this.#pending.slice(start, start + CHUNK),
      )) {
        if (phase === "terminal" && isTerminalOutcome(outcome)) {
          this.#ended[outcome] += 1;
          this.#states.set(id, outcome);
          continue;
        }
        const state = unfinishedState(phase, eligibility);
        pending.push(id);
        counts[state] += 1;
        this.#states.set(id, state);
      }
    }
    this.#pending = pending;
    return { ended: { ...this.#ended }, ...counts };
  }

  async #read(
    executions: readonly ExecutionId[],
  ): Promise<[id: ExecutionId, phase: string, outcome: string, eligibility: string][]> {
    const results = await this.#valkey.pipelined(
      executions.map((id) => {
        const { partition, core } = this.#router.execKeys(id);
        return command(partition, "hmget", core, "lifecycle_phase", "terminal_outcome", "eligibility_state");
      }),
    );
    return executions.map((id, index) => {
      const result = results[index];
      if (result?.ok !== true) {
        throw new ValkeyError(`the record of ${id} cannot be read: ${result?.error.message ?? "no reply"}`);
      }
      const fields: readonly unknown[] = Array.isArray(result.value) ? result.value : [];
      return [id, fieldText(fields[0]), fieldText(fields[1]), fieldText(fields[2])];
    });
  }
}

function unfinishedState(phase: string, eligibility: string): Exclude<TaskState, TerminalOutcome> {
  if (phase === "active") return "active";
  if (phase !== "runnable") return "blocked";
  if (eligibility === "eligible_now") return "ready";
  return eligibility === "not_eligible_until_time" ? "delayed" : "blocked";
}

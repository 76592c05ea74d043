import { command, type Pipelines } from "#shared/contract/command.ts";
import type { ExecutionId } from "#shared/contract/ids.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText, isTerminalOutcome, type TerminalOutcome } from "#shared/contract/record.ts";
import { ValkeyError } from "#shared/errors.ts";

/** Where a flow's executions stand. The numbers add up to all of them. */
export interface FlowStatus {
  /** The ended ones, by their outcome. */
  readonly ended: Readonly<Record<TerminalOutcome, number>>;
  /** Waiting for a worker. */
  readonly ready: number;
  /** Waiting for a set time: that of a retry. */
  readonly delayed: number;
  readonly active: number;
  /** Waiting for other executions, or in a state that this stack does not know. */
  readonly blocked: number;
}

/** Executions asked after in one pipeline. */
const CHUNK = 2_000;

/**
 * Counts a flow's executions by asking each one's own record, the only truth there is. What has ended is not asked
 * again: nothing here replays an execution.
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
  #pending: readonly ExecutionId[];

  constructor(valkey: Pipelines, router: PartitionRouter, executions: Iterable<ExecutionId>) {
    this.#valkey = valkey;
    this.#router = router;
    this.#pending = [...executions];
  }

  /** How many have not ended, as far as the last count knows. */
  get unfinished(): number {
    return this.#pending.length;
  }

  /** Counts once more. Throws a ValkeyError when a record cannot be read. */
  async take(): Promise<FlowStatus> {
    const pending: ExecutionId[] = [];
    let ready = 0;
    let delayed = 0;
    let active = 0;
    for (let start = 0; start < this.#pending.length; start += CHUNK) {
      for (const [id, phase, outcome, eligibility] of await this.#read(
        this.#pending.slice(start, start + CHUNK),
      )) {
        if (phase === "terminal" && isTerminalOutcome(outcome)) {
          this.#ended[outcome] += 1;
          continue;
        }
        pending.push(id);
        if (phase === "active") active += 1;
        else if (phase === "runnable" && eligibility === "eligible_now") ready += 1;
        else if (phase === "runnable" && eligibility === "not_eligible_until_time") delayed += 1;
      }
    }
    this.#pending = pending;
    const blocked = pending.length - ready - delayed - active;
    return { ended: { ...this.#ended }, ready, delayed, active, blocked };
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

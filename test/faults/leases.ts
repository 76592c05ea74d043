/** Lets the leases of a flow run out. The clock is compressed: the harness moves their ends into the past. */

import { command } from "#shared/contract/command.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { fieldText } from "#shared/contract/record.ts";
import { valueOrThrow } from "#shared/valkey/batches.ts";
import type { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { leaseSweeper } from "#test/faults/reconcilers.ts";
import type { TestBed } from "#test/faults/test-bed.ts";

/** Which executions lost a lease, by the lease's epoch: each must be reclaimed once for each. */
export class Lapses {
  readonly #epochs = new Map<number, Set<string>>();

  /** Ends all leases and grants of a flow, as if their time had passed, and lets the reconciler mark the leases. */
  async lapse(bed: TestBed, flow: FlowUnderTest): Promise<void> {
    const { index } = flow;
    const held = (await read(bed, flow)).filter(({ ownership }) => ownership === "leased");
    const commands = held.flatMap(({ keys }) => [
      command(keys.partition, "hset", keys.core, "lease_expires_at", 1),
      command(keys.partition, "hset", keys.leaseCurrent, "expires_at", 1),
      command(keys.partition, "zadd", index.leaseExpiry, 1, keys.id),
    ]);
    const grants = flow.tasks.map(({ partition, claimGrant }) => command(partition, "del", claimGrant));
    for (const result of await bed.valkey.pipelined([...grants, ...commands])) valueOrThrow(result);
    if (held.length > 0) await leaseSweeper(bed).invoke({});
    await this.count(bed, flow);
  }

  /** Counts the leases that are marked. A worker's refused report marks its lease, too. */
  async count(bed: TestBed, flow: FlowUnderTest): Promise<void> {
    for (const { task, ownership, epoch } of await read(bed, flow)) {
      if (ownership === "leased") continue;
      this.#epochs.set(task, (this.#epochs.get(task) ?? new Set()).add(epoch));
    }
  }

  /** How often each task lost its lease. */
  get counts(): ReadonlyMap<number, number> {
    return new Map([...this.#epochs].map(([task, epochs]) => [task, epochs.size]));
  }
}

interface ActiveExecution {
  readonly task: number;
  readonly keys: ExecKeys;
  readonly ownership: string;
  readonly epoch: string;
}

async function read(bed: TestBed, { tasks }: FlowUnderTest): Promise<ActiveExecution[]> {
  const fields = ["lifecycle_phase", "ownership_state", "current_lease_epoch"];
  const records = await bed.valkey.pipelined(
    tasks.map(({ partition, core }) => command(partition, "hmget", core, ...fields)),
  );
  return tasks.flatMap((keys, task) => {
    const values = valueOrThrow(records[task]);
    const [phase, ownership = "", epoch = ""] = Array.isArray(values) ? values.map(fieldText) : [];
    return phase === "active" ? [{ task, keys, ownership, epoch }] : [];
  });
}

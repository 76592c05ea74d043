import type { Plan } from "#sdk/submission/plan.ts";
import { command, type Pipelines } from "#shared/contract/command.ts";
import { LANES_KEY, LANES_PARTITION } from "#shared/contract/keys.ts";
import { chunked, readEach } from "#shared/valkey/batches.ts";

/** Adds the lanes of the tasks to those that the reconciler sweeps. It would never find an execution of another lane. */
export async function recordLanes(valkey: Pipelines, { tasks }: Plan): Promise<void> {
  const lanes = new Set(tasks.map(({ task }) => task.lane));
  await readEach(valkey, [...chunked([...lanes])], (chunk) =>
    command(LANES_PARTITION, "sadd", LANES_KEY, ...chunk),
  );
}

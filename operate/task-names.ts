import { command, type Pipelines } from "#shared/contract/command.ts";
import type { ExecutionId } from "#shared/contract/ids.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText } from "#shared/contract/record.ts";
import { TASK_TAG } from "#shared/contract/submission.ts";
import { readEach } from "#shared/valkey/batches.ts";

/**
 * Reads the task ids of executions, in their order. Empty for an execution that another program created, or a submission of a
 * release before 0.2. Throws a ValkeyError.
 */
export async function readTaskNames(
  { valkey, router }: { readonly valkey: Pipelines; readonly router: PartitionRouter },
  ids: readonly ExecutionId[],
): Promise<string[]> {
  const tags = await readEach(valkey, ids, (id) => {
    const { partition, tags: key } = router.execKeys(id);
    return command(partition, "hget", key, TASK_TAG);
  });
  return tags.map(fieldText);
}

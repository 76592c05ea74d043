/** What is checked once for a client, before the first message: is this the deployment we are set up for? */

import type { DispatchConfig } from "#shared/config.ts";
import { type Edition, editionOf } from "#shared/contract/edition.ts";
import { ConfigurationError, messageOf } from "#shared/errors.ts";
import { PARTITION_CONFIG_KEY } from "#shared/keys.ts";
import type { Valkey } from "#shared/valkey/client.ts";

/**
 * Throws a ConfigurationError where the recorded partition count is another one: flows would be looked for
 * where they are not (contract, section 2). False where none is recorded: the configured count is as good as any.
 */
export async function checkPartitions(
  valkey: Valkey,
  { partitions }: Pick<DispatchConfig, "partitions">,
): Promise<boolean> {
  const count = partitions.numFlowPartitions;
  const recorded = await valkey.call("hget", PARTITION_CONFIG_KEY, "num_flow_partitions");
  if (recorded === null || recorded === "") return false;
  if (String(recorded) === String(count)) return true;
  throw new ConfigurationError([
    `FLOW_PARTITIONS is ${count}, and ${PARTITION_CONFIG_KEY} records num_flow_partitions ` +
      `"${String(recorded)}", which is fixed for the deployment's life: set FLOW_PARTITIONS to it`,
  ]);
}

/** The configured edition, or the one that the loaded library speaks; loads the library where it is missing. */
export async function findEdition(
  valkey: Valkey,
  { edition }: Pick<DispatchConfig, "edition">,
  ensureLibrary: () => Promise<void>,
): Promise<Edition> {
  if (edition !== "auto") return edition;
  const readVersion = () => valkey.call("fcall", "ff_version", 0);
  try {
    return editionOf(await readVersion());
  } catch (error) {
    if (!messageOf(error).startsWith("ERR Function not found")) throw error;
  }
  await ensureLibrary();
  return editionOf(await readVersion());
}

/** What a deployment needs of Valkey before its functions may run: the partition count, and the library everywhere. */

import type { ProvisionConfig } from "#functions/provision/config.ts";
import { type Edition, editionOf } from "#shared/contract/edition.ts";
import { PARTITION_CONFIG_KEY } from "#shared/contract/keys.ts";
import { ConfigurationError, messageOf, ValkeyError } from "#shared/errors.ts";
import type { Telemetry } from "#shared/runtime/telemetry.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary, type LibraryState } from "#shared/valkey/library.ts";
import { checkPartitions, detectEdition } from "#shared/valkey/start-up.ts";

/** What was found, and what was done about it. */
export interface ProvisionReport {
  /** What `ff_version` replies, on every primary. */
  readonly version: string;
  readonly edition: Edition;
  readonly library: LibraryState;
  /** `created`: nobody had recorded the counts. */
  readonly partitions: "recorded" | "created";
  readonly primaries: number;
}

/**
 * Checks or records the partition counts, then loads the library where it is missing or another one of ours. Whoever
 * runs it twice, or dies within it and runs it again, changes nothing more.
 *
 * Throws a ConfigurationError where the deployment has another partition count, or libraries that do not go together;
 * then nothing was written. A ValkeyError where a primary does not answer, or lacks a library that is not ours to load.
 */
export async function provision(
  valkey: Valkey,
  config: ProvisionConfig,
  telemetry: Telemetry,
): Promise<ProvisionReport> {
  const partitions = await settlePartitions(valkey, config);
  const library = await ensureLibrary(valkey, config.edition);
  const version = await commonVersion(valkey, config.edition);
  // Told by the version; what is missing was loaded above.
  const edition = await detectEdition(valkey, config, () => Promise.resolve(), telemetry);
  const { length: primaries } = await valkey.primaries();
  return { version, edition, library, partitions, primaries };
}

/**
 * KEYS `ff:config:partitions`; ARGV field, value, … Sets what is not there yet, all or nothing: who boots first writes,
 * and what somebody has written since we looked stays.
 */
const RECORD = `
for at = 1, #ARGV, 2 do
  local recorded = redis.call('HGET', KEYS[1], ARGV[at])
  if not recorded or recorded == '' then redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1]) end
end
return 1`;

async function settlePartitions(
  valkey: Valkey,
  config: ProvisionConfig,
): Promise<ProvisionReport["partitions"]> {
  if (await checkPartitions(valkey, config)) return "recorded";
  const { numFlowPartitions, numBudgetPartitions, numQuotaPartitions } = config.partitions;
  const counts = {
    num_flow_partitions: numFlowPartitions,
    num_budget_partitions: numBudgetPartitions,
    num_quota_partitions: numQuotaPartitions,
  };
  await valkey.call("eval", RECORD, 1, PARTITION_CONFIG_KEY, ...Object.entries(counts).flat());
  // Somebody else may have been first: theirs counts, and must agree.
  await checkPartitions(valkey, config);
  return "created";
}

async function commonVersion(valkey: Valkey, edition: Edition | "auto"): Promise<string> {
  const versions = await Promise.all(
    (await valkey.primaries()).map(async ({ name, call }) => {
      try {
        return { name, version: String(await call("fcall", "ff_version", 0)) };
      } catch (error) {
        throw new ValkeyError(`the primary ${name} has no flowfabric library to use: ${messageOf(error)}`);
      }
    }),
  );
  const different = new Set(versions.map(({ version }) => version));
  const [version = ""] = different;
  if (different.size > 1) {
    const found = versions.map((one) => `${one.name}: ${one.version}`).join(", ");
    throw new ConfigurationError([
      `the primaries have different versions of the flowfabric library: ${found}`,
    ]);
  }
  if (edition === "auto") editionOf(version);
  return version;
}

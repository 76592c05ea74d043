/** Prepares Valkey for a deployment: partition counts, and the library on every primary. */

import type { ProvisionConfig } from "#functions/provision/config.ts";
import { type Edition, editionOf } from "#shared/contract/edition.ts";
import { PARTITION_CONFIG_KEY } from "#shared/contract/keys.ts";
import { ConfigurationError, messageOf, ValkeyError } from "#shared/errors.ts";
import type { Telemetry } from "#shared/runtime/telemetry.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary, type LibraryState } from "#shared/valkey/library.ts";
import { checkPartitions, detectEdition } from "#shared/valkey/start-up.ts";

/** The state of Valkey after provisioning. */
export interface ProvisionReport {
  /** The reply of `ff_version` on every primary. */
  readonly version: string;
  readonly edition: Edition;
  readonly library: LibraryState;
  /** `created`: this run recorded the counts. `recorded`: they were recorded before, and match. */
  readonly partitions: "recorded" | "created";
  readonly primaries: number;
}

/**
 * Checks or records the partition counts. Then loads the library where it is missing or is another build of Sluice's
 * library. Idempotent: running it again, also after a crash, changes nothing more.
 *
 * Throws a ConfigurationError, before it writes anything, if the recorded partition counts differ. Throws a
 * ConfigurationError if the primaries have different library versions. Throws a ValkeyError if a primary does not respond
 * or lacks a library that Sluice must not load.
 */
export async function provision(
  valkey: Valkey,
  config: ProvisionConfig,
  telemetry: Telemetry,
): Promise<ProvisionReport> {
  const partitions = await checkOrRecordPartitions(valkey, config);
  const library = await ensureLibrary(valkey, config.edition);
  const version = await commonVersion(valkey, config.edition);
  // Detects the edition by the version. Missing libraries were loaded above.
  const edition = await detectEdition(valkey, config, () => Promise.resolve(), telemetry);
  const { length: primaries } = await valkey.primaries();
  return { version, edition, library, partitions, primaries };
}

/**
 * KEYS: ff:config:partitions. ARGV: field, value, … Atomically sets the fields that are missing or empty. The first of
 * several concurrent deployments writes; values that exist stay.
 */
const RECORD_COUNTS = `
for at = 1, #ARGV, 2 do
  local recorded = redis.call('HGET', KEYS[1], ARGV[at])
  if not recorded or recorded == '' then redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1]) end
end
return 1`;

async function checkOrRecordPartitions(
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
  await valkey.call("eval", RECORD_COUNTS, 1, PARTITION_CONFIG_KEY, ...Object.entries(counts).flat());
  // Another deployment may have written first: its counts apply and must match.
  await checkPartitions(valkey, config);
  return "created";
}

async function commonVersion(valkey: Valkey, edition: Edition | "auto"): Promise<string> {
  const versions = await Promise.all(
    (await valkey.primaries()).map(async ({ name, call }) => {
      try {
        return { name, version: String(await call("fcall", "ff_version", 0)) };
      } catch (error) {
        throw new ValkeyError(`the primary ${name} has no usable flowfabric library: ${messageOf(error)}`);
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

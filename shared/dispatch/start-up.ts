/** What is checked once for a client, before the first message: is this the deployment we are set up for? */

import type { DispatchConfig } from "#shared/config.ts";
import { type Edition, editionOf } from "#shared/contract/edition.ts";
import { ConfigurationError, messageOf } from "#shared/errors.ts";
import { PARTITION_CONFIG_KEY } from "#shared/keys.ts";
import type { Telemetry } from "#shared/telemetry.ts";
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

/**
 * The edition to speak: the configured one, or the one that the loaded library has. `ensureLibrary` is called where a
 * primary lacks the library, and where the configuration asks for an edition.
 *
 * Throws a ConfigurationError where the version is unknown, where two primaries speak different editions, and where
 * none has a library. A primary that lacks somebody else's library is told of and left to its owner: messages for its
 * slots come again, and the others are dispatched.
 */
export async function findEdition(
  valkey: Valkey,
  { edition }: Pick<DispatchConfig, "edition">,
  ensureLibrary: () => Promise<void>,
  telemetry: Telemetry,
): Promise<Edition> {
  if (edition !== "auto") {
    await ensureLibrary();
    return edition;
  }
  let versions = await versionsOf(valkey);
  if (versions.some(({ version }) => version === undefined)) {
    await ensureLibrary();
    versions = await versionsOf(valkey);
  }
  const lacking = versions.filter(({ version }) => version === undefined).map(({ node }) => node);
  const editions = new Set(
    versions.flatMap(({ version }) => (version === undefined ? [] : [editionOf(version)])),
  );
  const [found, ...others] = editions;
  if (found === undefined || others.length > 0) {
    const loaded = versions.map(({ node, version }) => `${node} ${String(version ?? "none")}`).join(", ");
    throw new ConfigurationError([
      `the primaries must have one edition of the flowfabric library, and have the versions: ${loaded}`,
    ]);
  }
  if (lacking.length > 0) {
    telemetry.error("primaries lack the flowfabric library that the others have: load it there", {
      primaries: lacking,
    });
  }
  return found;
}

interface LoadedVersion {
  /** `host:port`. */
  readonly node: string;
  /** Undefined: the primary has no such function. */
  readonly version: unknown;
}

async function versionsOf(valkey: Valkey): Promise<LoadedVersion[]> {
  return Promise.all(
    (await valkey.primaries()).map(async ({ name: node, call }) => {
      try {
        return { node, version: await call("fcall", "ff_version", 0) };
      } catch (error) {
        if (!messageOf(error).startsWith("ERR Function not found")) throw error;
        return { node, version: undefined };
      }
    }),
  );
}

/** What is checked once for a client, before the first message: is this the deployment we are set up for? */

import { type Edition, editionOf } from "#shared/contract/edition.ts";
import { PARTITION_CONFIG_KEY } from "#shared/contract/keys.ts";
import { ConfigurationError, messageOf, ValkeyError } from "#shared/errors.ts";
import type { GaugingTelemetry, Telemetry } from "#shared/runtime/telemetry.ts";
import { Valkey } from "#shared/valkey/client.ts";
import type { ValkeyConfig } from "#shared/valkey/config.ts";
import { recordEdition } from "#shared/valkey/library.ts";
import { SessionProvider } from "#shared/valkey/session.ts";

/**
 * Throws a ConfigurationError where the recorded partition count is another one: flows would be looked for
 * where they are not (contract, section 2). False where none is recorded: the configured count is as good as any.
 */
export async function checkPartitions(
  valkey: Valkey,
  { partitions }: Pick<ValkeyConfig, "partitions">,
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
 * Throws a ConfigurationError where the version is unknown or two primaries speak different editions, and a ValkeyError
 * where no primary has a library. A primary that lacks somebody else's library, or does not answer, is told of:
 * messages for its slots come again, and the others are dispatched.
 */
export async function detectEdition(
  valkey: Valkey,
  { edition }: { readonly edition: Edition | "auto" },
  ensureLibrary: () => Promise<void>,
  telemetry: Telemetry,
): Promise<Edition> {
  if (edition !== "auto") {
    await ensureLibrary();
    return edition;
  }
  let versions = await versionsOf(valkey);
  if (versions.some(({ state }) => state === "lacking")) {
    await ensureLibrary();
    versions = await versionsOf(valkey);
  }
  const editions = new Set(
    versions.flatMap(({ state, version }) => (state === "loaded" ? [editionOf(version)] : [])),
  );
  const [found, ...others] = editions;
  if (others.length > 0) {
    throw new ConfigurationError([
      "the primaries have different editions of the flowfabric library: load one everywhere, or set LIBRARY_EDITION " +
        `to 11 or 14 to have ours loaded in that edition: ${versions.map(told).join(", ")}`,
    ]);
  }
  if (found === undefined) {
    throw new ValkeyError(`no primary has a flowfabric library: ${versions.map(told).join(", ")}`);
  }
  const missing = versions.filter(({ state }) => state !== "loaded");
  if (missing.length > 0) {
    telemetry.error("messages for some primaries cannot be dispatched", { primaries: missing.map(told) });
  }
  try {
    await recordEdition(valkey, found);
  } catch (error) {
    telemetry.warn("the edition could not be recorded: functions that are flushed may come back in another", {
      reason: messageOf(error),
    });
  }
  return found;
}

function told({ node, state, version }: NodeVersion): string {
  return `${node}: ${state === "lacking" ? "none" : String(version)}`;
}

interface NodeVersion {
  /** `host:port`. */
  readonly node: string;
  readonly state: "loaded" | "lacking" | "unreachable";
  /** What the primary replied, or why it did not. */
  readonly version: unknown;
}

async function versionsOf(valkey: Valkey): Promise<NodeVersion[]> {
  return Promise.all(
    (await valkey.primaries()).map(async ({ name: node, call }): Promise<NodeVersion> => {
      try {
        return { node, state: "loaded", version: await call("fcall", "ff_version", 0) };
      } catch (error) {
        const reason = messageOf(error);
        const isLacking = reason.startsWith("ERR Function not found");
        return { node, state: isLacking ? "lacking" : "unreachable", version: reason };
      }
    }),
  );
}

/**
 * Sessions with the configured Valkey. Each new client is checked against the recorded partition count before
 * `start` looks at the server; that none is recorded is told once.
 */
export function createSessions<StartupInfo>(
  config: ValkeyConfig,
  telemetry: GaugingTelemetry,
  start: (valkey: Valkey) => Promise<StartupInfo>,
): SessionProvider<StartupInfo> {
  let isAbsenceTold = false;
  return new SessionProvider(
    (knownNodes) =>
      new Valkey(config.valkey, {
        knownNodes,
        onConnectionError: ({ message }) =>
          telemetry.warn("the connection to Valkey failed", { reason: message }),
      }),
    async (valkey) => {
      if (!(await checkPartitions(valkey, config)) && !isAbsenceTold) {
        isAbsenceTold = true;
        telemetry.warn(
          `${PARTITION_CONFIG_KEY} is not recorded: going on with the configured partition count`,
          {
            flow_partitions: config.partitions.numFlowPartitions,
          },
        );
      }
      return start(valkey);
    },
  );
}

/** Startup checks of a client: the partition count and the library edition must match the configuration. */

import { type Edition, editionOf } from "#shared/contract/edition.ts";
import { PARTITION_CONFIG_KEY } from "#shared/contract/keys.ts";
import { ConfigurationError, messageOf, UnreachableError, ValkeyError } from "#shared/errors.ts";
import type { GaugingTelemetry, Telemetry } from "#shared/runtime/telemetry.ts";
import { isUnavailable, Valkey } from "#shared/valkey/client.ts";
import type { ValkeyConfig } from "#shared/valkey/config.ts";
import { recordEdition } from "#shared/valkey/library.ts";
import { SessionProvider } from "#shared/valkey/session.ts";

/**
 * Timeout of a startup check in milliseconds, where other nodes can work without the one that is asked. After it, commands
 * for the silent node fail at once, so that it delays a new client only once.
 */
const CHECK_TIMEOUT_MS = 2_000;

/**
 * Throws a ConfigurationError if the recorded partition count differs from the configured one: keys would be looked up in
 * the wrong partitions (contract, section 2). Returns false if no count is recorded.
 */
export async function checkPartitions(
  valkey: Pick<Valkey, "call">,
  { partitions }: Pick<ValkeyConfig, "partitions">,
): Promise<boolean> {
  const count = partitions.numFlowPartitions;
  const recorded = await valkey.call("hget", PARTITION_CONFIG_KEY, "num_flow_partitions");
  if (recorded === null || recorded === "") return false;
  if (String(recorded) === String(count)) return true;
  throw new ConfigurationError([
    `FLOW_PARTITIONS is ${count}, but ${PARTITION_CONFIG_KEY} records num_flow_partitions "${String(recorded)}", ` +
      "which never changes: set FLOW_PARTITIONS to the recorded count",
  ]);
}

/**
 * Returns the edition of the loaded library. It is known by the library's version; `configured` decides only for unknown
 * versions, and which edition to load where a primary lacks the library. Calls are the same for both editions.
 *
 * Throws a ConfigurationError if the version is unknown and no edition is configured, if the configured edition is not
 * the loaded one, or if the primaries have different editions; and a ValkeyError if no primary has a library. A primary
 * that still lacks the library or is unreachable is only logged: messages for its slots are retried, and the others are
 * dispatched.
 */
export async function detectEdition(
  valkey: Valkey,
  { edition: configured }: { readonly edition: Edition | "auto" },
  ensureLibrary: () => Promise<void>,
  telemetry: Telemetry,
): Promise<Edition> {
  let versions = await versionsOf(valkey);
  const isConfigured = configured !== "auto";
  if (isConfigured || versions.some(({ state }) => state === "missing")) {
    try {
      await ensureLibrary();
    } catch (error) {
      // The library cannot be loaded everywhere while a primary is unreachable.
      const isIncomplete = versions.some(({ state }) => state === "unreachable");
      if (!isIncomplete || !(error instanceof UnreachableError)) throw error;
    }
    versions = await versionsOf(valkey);
  }
  const editions = new Set(
    versions.flatMap(({ state, version }) => (state === "loaded" ? [editionOf(version, configured)] : [])),
  );
  const [found, ...others] = editions;
  if (others.length > 0) {
    throw new ConfigurationError([
      `the primaries have different editions of the flowfabric library (${versions.map(describeVersion).join(", ")}): ` +
        "load the same one on all of them, or set LIBRARY_EDITION to 11 or 14 to load Sluice's in that edition",
    ]);
  }
  if (found === undefined) {
    throw new ValkeyError(`no primary has a flowfabric library: ${versions.map(describeVersion).join(", ")}`);
  }
  const unavailable = versions.filter(({ state }) => state !== "loaded");
  if (unavailable.length > 0) {
    telemetry.error("some primaries lack the library or are unreachable: their messages will be retried", {
      primaries: unavailable.map(describeVersion),
    });
  }
  try {
    await recordEdition(valkey, found);
  } catch (error) {
    telemetry.warn("could not record the library edition: after FUNCTION FLUSH another one may be loaded", {
      reason: messageOf(error),
    });
  }
  return found;
}

function describeVersion({ node, state, version }: NodeVersion): string {
  return `${node}: ${state === "missing" ? "none" : String(version)}`;
}

interface NodeVersion {
  /** `host:port`. */
  readonly node: string;
  readonly state: "loaded" | "missing" | "unreachable";
  /** The primary's reply, or the error message. */
  readonly version: unknown;
}

async function versionsOf(valkey: Valkey): Promise<NodeVersion[]> {
  const primaries = await valkey.primaries();
  return Promise.all(
    primaries.map(async ({ name: node, call, callWithin }): Promise<NodeVersion> => {
      const question = ["fcall", "ff_version", 0] as const;
      try {
        const reply = primaries.length > 1 ? callWithin(CHECK_TIMEOUT_MS, ...question) : call(...question);
        return { node, state: "loaded", version: await reply };
      } catch (error) {
        const reason = messageOf(error);
        const isMissing = reason.startsWith("ERR Function not found");
        return { node, state: isMissing ? "missing" : "unreachable", version: reason };
      }
    }),
  );
}

/**
 * Returns sessions with the configured Valkey. Each new client checks the recorded partition count before it runs
 * `start`. A missing record is logged once per process. In a cluster, an unreadable record must not stop the work on
 * other nodes: the configured count is used, and the next invocation checks again, since the client is then broken.
 */
export function createSessions<StartupInfo>(
  config: ValkeyConfig,
  telemetry: GaugingTelemetry,
  start: (valkey: Valkey) => Promise<StartupInfo>,
): SessionProvider<StartupInfo> {
  let hasWarned = false;
  const flow_partitions = config.partitions.numFlowPartitions;
  return new SessionProvider(
    (knownNodes) =>
      new Valkey(config.valkey, {
        knownNodes,
        onConnectionError: ({ message }) =>
          telemetry.warn("connection to Valkey failed", { reason: message }),
      }),
    async (valkey) => {
      try {
        if (
          !(await checkPartitions(config.valkey.cluster ? impatient(valkey) : valkey, config)) &&
          !hasWarned
        ) {
          hasWarned = true;
          telemetry.warn(`${PARTITION_CONFIG_KEY} is not recorded: using the configured partition count`, {
            flow_partitions,
          });
        }
      } catch (error) {
        if (!config.valkey.cluster || !isUnavailable(error)) throw error;
        telemetry.warn(
          `${PARTITION_CONFIG_KEY} cannot be read: using the configured partition count, will check again`,
          { flow_partitions, reason: messageOf(error) },
        );
      }
      return start(valkey);
    },
  );
}

function impatient(valkey: Valkey): Pick<Valkey, "call"> {
  return { call: (name, ...args) => valkey.callWithin(CHECK_TIMEOUT_MS, name, ...args) };
}

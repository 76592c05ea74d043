/** The checks of Valkey itself: server, cluster, library, memory, durability and clock. */

import { LIBRARY_REVISION } from "#lua/revision.ts";
import { type CheckResult, type DoctorFinding, found, skip } from "#operate/doctor/finding.ts";
import type { NodeReport } from "#operate/doctor/nodes.ts";
import type { Edition } from "#shared/contract/edition.ts";
import { editionOf } from "#shared/contract/edition.ts";
import { ConfigurationError } from "#shared/errors.ts";

const OLDEST_VERSION = [7, 2] as const;

export function checkVersion(nodes: readonly NodeReport[]): CheckResult {
  const findings = nodes.flatMap(({ name, info }): DoctorFinding[] => {
    if (info.size === 0) return [];
    // Valkey also reports a Redis version, for clients that look for it.
    const version = info.get("valkey_version");
    if (version === undefined && info.get("server_name") !== "valkey") {
      return [
        found("valkey_version_old", name, `Redis ${info.get("redis_version") ?? "of an unknown version"}`),
      ];
    }
    const [major = 0, minor = 0] = (version ?? info.get("redis_version") ?? "").split(".").map(Number);
    const isOld = major < OLDEST_VERSION[0] || (major === OLDEST_VERSION[0] && minor < OLDEST_VERSION[1]);
    return isOld ? [found("valkey_version_old", name, `Valkey ${version ?? "of an unknown version"}`)] : [];
  });
  return { findings };
}

const CLUSTER_SLOTS = 16_384;

/** `isCluster`: what is configured. */
export function checkCluster(nodes: readonly NodeReport[], isCluster: boolean): CheckResult {
  const findings = nodes.flatMap(({ name, info, config, servedSlots = CLUSTER_SLOTS }): DoctorFinding[] => {
    const enabled = info.get("cluster_enabled");
    const wrong = enabled !== undefined && (enabled === "1") !== isCluster;
    return [
      ...(wrong
        ? [
            found(
              "cluster_mode_wrong",
              name,
              isCluster
                ? "VALKEY_CLUSTER_MODE is true, and the server is not part of a cluster"
                : "VALKEY_CLUSTER_MODE is false, and the server is part of a cluster",
              `set VALKEY_CLUSTER_MODE=${String(!isCluster)}`,
            ),
          ]
        : []),
      ...(servedSlots < CLUSTER_SLOTS
        ? [found("cluster_slots_unserved", name, `${CLUSTER_SLOTS - servedSlots} slots have no primary`)]
        : []),
      ...(isCluster && config.get("cluster-require-full-coverage") === "yes"
        ? [found("cluster_full_coverage", name, "cluster-require-full-coverage is yes")]
        : []),
    ];
  });
  return { findings };
}

export interface LibrarySettings {
  readonly configured: Edition | "auto";
  readonly recorded: Edition | undefined;
}

export function checkLibrary(nodes: readonly NodeReport[], settings: LibrarySettings): CheckResult {
  const findings: DoctorFinding[] = [];
  const editions = new Map<string, Edition>();
  for (const { name, library, version } of nodes) {
    if (library === undefined) {
      findings.push(found("library_missing", name, "FUNCTION LIST has no flowfabric library"));
      continue;
    }
    if (typeof library === "object") {
      const { revision } = library;
      const text = `revision ${revision} is loaded, and this release has ${LIBRARY_REVISION}`;
      if (revision < LIBRARY_REVISION) findings.push(found("library_outdated", name, text));
      if (revision > LIBRARY_REVISION) findings.push(found("library_newer", name, text));
    }
    if (version === undefined) continue;
    try {
      editions.set(name, editionOf(version));
    } catch (error) {
      if (!(error instanceof ConfigurationError)) throw error;
      if (settings.configured === "auto") {
        findings.push(found("library_unknown", name, `ff_version replies ${JSON.stringify(version)}`));
      } else editions.set(name, settings.configured);
    }
  }
  const different = new Set(editions.values());
  if (different.size > 1) {
    const text = [...editions].map(([name, edition]) => `${name}: ${edition} KEYS`).join(", ");
    findings.push(found("library_editions_differ", "all primaries", text));
  } else findings.push(...[...different].flatMap((edition) => wrongEdition(edition, settings)));
  return { findings };
}

function wrongEdition(loaded: Edition, { configured, recorded }: LibrarySettings): DoctorFinding[] {
  const where = "all primaries";
  const text = `the ${loaded}-KEYS edition is loaded`;
  if (configured !== "auto" && configured !== loaded) {
    return [found("library_edition_wrong", where, `${text}, and LIBRARY_EDITION is ${configured}`)];
  }
  // An earlier edition ignores the edge groups that the recorded one made. A later one is recorded when it is used.
  if (recorded === 14 && loaded === 11) {
    return [found("library_edition_wrong", where, `${text}, and ff:config:library_edition records 14`)];
  }
  return [];
}

const LOW_PERCENT = 75;
const FULL_PERCENT = 95;

export function checkMemory(nodes: readonly NodeReport[], isLocal: boolean): CheckResult {
  const findings = nodes.flatMap(({ name, info }): DoctorFinding[] => {
    const policy = info.get("maxmemory_policy");
    const evicted = Number(info.get("evicted_keys") ?? 0);
    return [
      ...(policy !== undefined && policy !== "noeviction"
        ? [found("eviction_policy", name, `maxmemory-policy is ${policy}`)]
        : []),
      ...(evicted > 0 ? [found("keys_evicted", name, `${evicted} keys since the server started`)] : []),
      ...headRoom(name, info, isLocal),
    ];
  });
  const unlimited = nodes.some(({ info }) => info.get("maxmemory") === "0");
  return {
    findings,
    ...(isLocal && unlimited ? { skipped: "maxmemory: the server is a local one, without a limit" } : {}),
  };
}

function headRoom(name: string, info: NodeReport["info"], isLocal: boolean): DoctorFinding[] {
  const used = Number(info.get("used_memory") ?? Number.NaN);
  const max = Number(info.get("maxmemory") ?? Number.NaN);
  const limit = max > 0 ? max : Number(info.get("total_system_memory") ?? Number.NaN);
  const percent = (used / limit) * 100;
  const text = `${mebibytes(used)} of ${mebibytes(limit)} MiB are used (${Math.floor(percent)} %)`;
  const level =
    percent > FULL_PERCENT
      ? ("memory_full" as const)
      : percent > LOW_PERCENT
        ? ("memory_low" as const)
        : undefined;
  return [
    ...(max === 0 && !isLocal ? [found("memory_unlimited", name, "maxmemory is 0")] : []),
    ...(level === undefined ? [] : [found(level, name, text)]),
  ];
}

function mebibytes(bytes: number): number {
  return Math.round(bytes / 1_048_576);
}

const MAX_LAG_SECONDS = 5;

/** Replicas and files. ElastiCache's durability is not visible here: see `checkReplicationGroup`. */
export function checkDurability(nodes: readonly NodeReport[], isLocal: boolean): CheckResult {
  if (isLocal) return skip("the server is a local one, whose data may be lost");
  const findings = nodes.flatMap(({ name, info }): DoctorFinding[] => {
    if (info.size === 0) return [];
    const replicas = replicasOf(info);
    const hasFile = info.get("aof_enabled") === "1";
    return [
      ...(replicas.length > 0
        ? []
        : [
            hasFile
              ? found("replica_missing", name, "connected_slaves is 0")
              : found("not_durable", name, "appendonly is off, and connected_slaves is 0"),
          ]),
      ...replicas
        .filter(({ state, lagSeconds }) => state !== "online" || lagSeconds > MAX_LAG_SECONDS)
        .map(({ address, state, lagSeconds }) =>
          found("replica_behind", name, `the replica ${address} is ${state}, ${lagSeconds} s behind`),
        ),
      ...["rdb_last_bgsave_status", "aof_last_bgrewrite_status", "aof_last_write_status"].flatMap((field) =>
        info.get(field) === "err" ? [found("persistence_failing", name, `${field} is err`)] : [],
      ),
    ];
  });
  return { findings };
}

/** Lines like `slave0:ip=10.0.0.2,port=6379,state=online,offset=1,lag=0`. */
function replicasOf(info: NodeReport["info"]) {
  return [...info]
    .filter(([name]) => /^slave\d+$/.test(name))
    .map(([, line]) => {
      const fields = new Map(
        line.split(",").map((part) => {
          const [name = "", value = ""] = part.split("=");
          return [name, value] as const;
        }),
      );
      return {
        address: `${fields.get("ip") ?? ""}:${fields.get("port") ?? ""}`,
        state: fields.get("state") ?? "unknown",
        lagSeconds: Number(fields.get("lag") ?? 0),
      };
    });
}

/** A difference that shifts delays and grace periods noticeably. */
const SKEWED_MS = 1_000;
/** The reconciler's default grace period. */
const WRONG_MS = 30_000;

export function checkClock(nodes: readonly NodeReport[]): CheckResult {
  const findings = nodes.flatMap(({ name, clock }): DoctorFinding[] => {
    const aheadMs = clock?.aheadMs ?? 0;
    const differenceMs = Math.abs(aheadMs);
    if (differenceMs <= SKEWED_MS) return [];
    const text = `the server's clock is ${differenceMs} ms ${aheadMs > 0 ? "ahead of" : "behind"} this machine's`;
    return [found(differenceMs > WRONG_MS ? "clock_wrong" : "clock_skew", name, text)];
  });
  return { findings };
}

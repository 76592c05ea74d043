/** The checks of what Sluice has stored: settings, lanes, indexes, and the last run of the reconciler. */

import type { FindingCode } from "#operate/doctor/codes.ts";
import { type CheckResult, type DoctorFinding, found, foundNothing } from "#operate/doctor/finding.ts";
import { checkConsistency } from "#shared/consistency/check.ts";
import { describeFinding, type Finding, type FindingKind } from "#shared/consistency/finding.ts";
import { keysLike } from "#shared/consistency/read.ts";
import { checkSample } from "#shared/consistency/sample.ts";
import type { LaneId } from "#shared/contract/ids.ts";
import { LANES_KEY, PARTITION_CONFIG_KEY } from "#shared/contract/keys.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { readRecordedLanes } from "#shared/reconcile/lanes.ts";
import { LAST_RUN_KEY, LEASE_KEY, readLastRun } from "#shared/reconcile/lease.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { serverTimeMs } from "#shared/valkey/server-time.ts";

export interface DataPorts {
  readonly valkey: Valkey;
  readonly router: PartitionRouter;
  /** Lanes that the reconciler sweeps without a record: those of `LANES` and `READY_QUEUES`. */
  readonly configuredLanes: readonly LaneId[];
  /** Milliseconds since the epoch at which the check must have ended. */
  readonly deadlineMs: number;
}

export async function checkPartitionCount({ valkey, router }: DataPorts): Promise<CheckResult> {
  const recorded = await valkey.call("hget", PARTITION_CONFIG_KEY, "num_flow_partitions");
  if (recorded === null || recorded === "") {
    return {
      findings: [found("partitions_unrecorded", PARTITION_CONFIG_KEY, "num_flow_partitions is not set")],
    };
  }
  if (String(recorded) === String(router.numFlowPartitions)) return foundNothing();
  return {
    findings: [
      found(
        "partitions_differ",
        PARTITION_CONFIG_KEY,
        `${String(recorded)} is recorded, and FLOW_PARTITIONS is ${router.numFlowPartitions}`,
        `set FLOW_PARTITIONS=${String(recorded)}`,
      ),
    ],
  };
}

/** A minute between two runs, a run of almost a minute, and some patience. */
const SILENT_MS = 300_000;

export async function checkReconciler({ valkey }: DataPorts): Promise<CheckResult> {
  const [lastRunMs, time, isRunning] = await Promise.all([
    readLastRun(valkey),
    valkey.call("time"),
    valkey.call("exists", LEASE_KEY),
  ]);
  if (isRunning === 1) return foundNothing();
  const ageMs = lastRunMs === undefined ? undefined : serverTimeMs(time) - lastRunMs;
  if (ageMs !== undefined && ageMs <= SILENT_MS) return foundNothing();
  const text =
    ageMs === undefined
      ? "no run has ended since this release was deployed"
      : `the last run ended ${Math.round(ageMs / 60_000)} minutes ago`;
  return { findings: [found("reconciler_silent", LAST_RUN_KEY, text)] };
}

/** What a sample may read: some seconds of work, whatever the size of the deployment. */
const SAMPLE = { maxPartitions: 16, perPartition: 50, flowsPerPartition: 1, maxFlowMembers: 1_000 } as const;
const SAMPLE_MS = 10_000;

/** Compares indexes with records: a random sample, or with `full` everything. Reports lanes without a record. */
export async function checkIndexes(ports: DataPorts, full: boolean): Promise<CheckResult> {
  const { valkey, router, deadlineMs } = ports;
  const recorded = await readRecordedLanes(valkey);
  const known = [...new Set([...recorded.lanes, ...ports.configuredLanes])];
  const findings = recorded.errors.map((error) => found("lane_invalid", LANES_KEY, error));
  if (full) {
    const signal = AbortSignal.timeout(Math.max(0, deadlineMs - Date.now()));
    const all = await checkConsistency(ports, { signal });
    findings.push(...unknownLanes(await usedLanes(ports), known), ...summarize(all));
    return { findings };
  }
  const endMs = Math.min(deadlineMs, Date.now() + SAMPLE_MS);
  const sample = await checkSample(ports, {
    ...SAMPLE,
    partitions: router.partitions,
    lanes: known,
    isOver: () => Date.now() >= endMs,
  });
  findings.push(...unknownLanes(sample.lanes, known), ...summarize(sample.findings));
  const { unread } = sample;
  return { findings, ...(unread === 0 ? {} : { skipped: `${unread} partitions cannot be read` }) };
}

const LANE_INDEX =
  /^ff:idx:\{fp:\d+\}:lane:(.*):(?:eligible|delayed|active|terminal|suspended|blocked:[a-z]+)$/;

async function usedLanes(ports: DataPorts): Promise<Set<string>> {
  const lanes = new Set<string>();
  for await (const names of keysLike(ports, "ff:idx:{fp:*}:lane:*")) {
    for (const name of names) {
      const lane = LANE_INDEX.exec(name)?.[1];
      if (lane !== undefined) lanes.add(lane);
    }
  }
  return lanes;
}

function unknownLanes(used: ReadonlySet<string>, known: readonly string[]): DoctorFinding[] {
  return [...used]
    .filter((lane) => !known.includes(lane))
    .toSorted()
    .map((lane) =>
      found(
        "lane_unrecorded",
        LANES_KEY,
        `executions are in the lane "${lane}", which is neither recorded nor configured`,
      ),
    );
}

const OWN_CODES: Partial<Record<FindingKind, FindingCode>> = {
  stuck: "execution_stuck",
  unapplied_edge: "edge_unapplied",
};
const MAX_EXAMPLES = 3;

/** One finding for each kind of inconsistency, with its number and some examples. */
function summarize(all: readonly Finding[]): DoctorFinding[] {
  return [...Map.groupBy(all, ({ kind }) => kind)].map(([kind, some]) => {
    const [first] = some;
    const examples = some.slice(0, MAX_EXAMPLES).map(describeFinding).join(" | ");
    const more = some.length > MAX_EXAMPLES ? ` | and ${some.length - MAX_EXAMPLES} more` : "";
    return found(
      OWN_CODES[kind] ?? "index_inconsistent",
      first?.key ?? "",
      `${some.length} × ${examples}${more}`,
    );
  });
}

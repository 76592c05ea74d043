/** What is wrong with the deployment, as far as it concerns one execution: partition count and library. */

import { type Cause, cause } from "#operate/explain/causes.ts";
import { type ExplainContext, sluice } from "#operate/explain/read.ts";
import { hasQuorum, type Subject } from "#operate/explain/subject.ts";
import { fcall } from "#shared/contract/command.ts";
import { type Edition, editionOf } from "#shared/contract/edition.ts";
import { type ExecutionId, partitionOf } from "#shared/contract/ids.ts";
import { EDITION_KEY, PARTITION_CONFIG_KEY } from "#shared/contract/keys.ts";
import { fieldText } from "#shared/contract/record.ts";
import { ConfigurationError } from "#shared/errors.ts";

/** Compares the partition count with the recorded one, and with where the execution and its flow are. */
export async function partitionCauses(
  { valkey, router }: ExplainContext,
  id: ExecutionId,
  subject: Subject | undefined,
): Promise<Cause[]> {
  const count = router.numFlowPartitions;
  const partition = partitionOf(id);
  const recorded = fieldText(await valkey.call("hget", PARTITION_CONFIG_KEY, "num_flow_partitions"));
  const causes: Cause[] = [];
  if (recorded !== "" && recorded !== String(count)) {
    causes.push(
      cause(
        "partition_count_mismatch",
        `FLOW_PARTITIONS is ${count} here, and Valkey records ${recorded} partitions. The count of a deployment never changes: ` +
          "functions and workers with another count refuse to work. Set FLOW_PARTITIONS to the recorded count everywhere.",
        { next: [sluice("doctor")] },
      ),
    );
  }
  if (partition >= count) {
    causes.push(
      cause(
        "partition_out_of_range",
        `The execution is in partition ${partition}, and the deployment has the partitions 0 to ${count - 1}. The reconciler ` +
          "does not sweep it, and pollers do not find it: its id belongs to another deployment, or the count is wrong.",
        { next: [sluice("doctor")] },
      ),
    );
  }
  const flow = subject?.flow;
  if (flow !== undefined) {
    const expected = router.flowPartition(flow.keys.id);
    if (expected !== partition) {
      causes.push(
        cause(
          "flow_in_other_partition",
          `Its flow ${flow.keys.id} belongs to partition ${expected} of ${count}, and the execution is in partition ${partition}: it was ` +
            "submitted with another FLOW_PARTITIONS.",
          { involved: { flows: [flow.keys.id] }, next: [sluice("doctor")] },
        ),
      );
    }
  }
  return causes;
}

/** Checks the library on the node that has the execution. */
export async function libraryCauses(
  { valkey }: ExplainContext,
  id: ExecutionId,
  subject: Subject | undefined,
): Promise<Cause[]> {
  const [version] = await valkey.pipelined([fcall(partitionOf(id), "ff_version", [], [])]);
  const next = [sluice("doctor")];
  if (version?.ok !== true) {
    const reason = version?.error.message ?? "no reply";
    if (!reason.includes("Function not found")) {
      return [
        cause("reading_incomplete", `The version of the library could not be read: ${reason}.`, { next }),
      ];
    }
    return [
      cause(
        "library_missing",
        "The Valkey node of the execution has no flowfabric library: no worker can claim or finish anything there, and dispatch " +
          "resolves no edge. Dispatch and the reconciler load Sluice's library at their next start; a deployment loads it at once.",
        { next },
      ),
    ];
  }
  let edition: Edition;
  try {
    edition = editionOf(version.value);
  } catch (error) {
    if (!(error instanceof ConfigurationError)) throw error;
    return [
      cause(
        "library_mismatch",
        `The loaded library has the unknown version ${String(version.value)}: expected 5 to 15, or 26 and above. Set LIBRARY_EDITION, or ` +
          "load Sluice's library.",
        { next },
      ),
    ];
  }
  const recorded = fieldText(await valkey.call("get", EDITION_KEY));
  const group = subject?.flow?.group;
  const needsGroups = group !== undefined && hasQuorum(group);
  if (edition === 14 || (recorded !== "14" && !needsGroups)) return [];
  return [
    cause(
      "library_mismatch",
      `The Valkey node of the execution has the 11-KEYS edition of the library, and ` +
        `${needsGroups ? `the execution has an ${group.policy_variant} group, which that edition ignores` : "Valkey records the 14-KEYS edition"}. ` +
        "Children with groups would be skipped wrongly: load the 14-KEYS edition.",
      { next },
    ),
  ];
}

/** Why an execution id names no record. */

import { type Cause, cause } from "#operate/explain/causes.ts";
import { type ExplainContext, sluice, uuidOf } from "#operate/explain/read.ts";
import { readAll, textsOf } from "#shared/consistency/read.ts";
import { command } from "#shared/contract/command.ts";
import {
  type ExecutionId,
  type FlowId,
  mintExecutionId,
  parseFlowId,
  partitionOf,
} from "#shared/contract/ids.ts";

/** More partitions are not searched for the UUID. */
const MAX_PARTITIONS = 4_096;
/** Flows of the partition that are asked whether they list the execution. */
const MAX_FLOWS = 1_000;

/** `flowId` is what the caller believes; undefined if they do not know. */
export async function missingCauses(
  context: ExplainContext,
  id: ExecutionId,
  flowId: FlowId | undefined,
): Promise<Cause[]> {
  const elsewhere = await findElsewhere(context, id);
  if (elsewhere !== undefined) {
    return [
      cause(
        "execution_elsewhere",
        `No execution ${id} exists. An execution with the same UUID is ${elsewhere}.`,
        {
          involved: { executions: [elsewhere] },
          next: [sluice("explain", elsewhere)],
        },
      ),
    ];
  }
  const flows = await readFlows(context, id, flowId);
  const purged = flows.find(({ isPurged, isGiven, listsIt }) => isPurged && (isGiven || listsIt));
  if (purged !== undefined) {
    return [
      cause(
        "execution_purged",
        `Its flow ${purged.flow} ended and was deleted after its retention, with all its executions. Submit the workflow with another ` +
          "flow id to run it again.",
        { involved: { flows: [purged.flow] } },
      ),
    ];
  }
  const listing = flows.find(({ listsIt }) => listsIt);
  if (listing !== undefined) {
    return [
      cause(
        "execution_not_found",
        `The execution has no record, and flow ${listing.flow} lists it as a member: the record was deleted by other software, or ` +
          "was lost in a failover. Children that wait for it never run: submit the workflow again with another flow id.",
        { involved: { flows: [listing.flow] }, next: [sluice("status", listing.flow), sluice("doctor")] },
      ),
    ];
  }
  const partition = partitionOf(id);
  const home = flowId === undefined ? undefined : context.router.flowPartition(flowId);
  const hint =
    flowId === undefined
      ? "It never existed in this deployment, or was deleted after its retention. With --flow, the command tells whether its flow was deleted."
      : home === partition
        ? `Flow ${flowId} does not list it and was not deleted: it never existed, or its flow was deleted more than 19 days ago.`
        : `Executions of flow ${flowId} are in partition ${home}, and this id names partition ${partition}.`;
  return [
    cause("execution_not_found", `No execution ${id} exists. ${hint}`, {
      next: [sluice("flows"), sluice("doctor")],
    }),
  ];
}

/** The execution with the same UUID in another partition. */
async function findElsewhere(context: ExplainContext, id: ExecutionId): Promise<ExecutionId | undefined> {
  const { router } = context;
  if (router.numFlowPartitions > MAX_PARTITIONS) return undefined;
  const others = router.partitions.flatMap((partition) => {
    const other = mintExecutionId(partition, uuidOf(id));
    return other.ok && other.value !== id ? [other.value] : [];
  });
  const replies = await readAll(
    context,
    others.map((other) => command(partitionOf(other), "exists", router.execKeys(other).core)),
  );
  return others.find((_, position) => replies[position] === 1);
}

interface FlowSeen {
  readonly flow: FlowId;
  readonly isGiven: boolean;
  readonly listsIt: boolean;
  readonly isPurged: boolean;
}

/** The flow that the caller names, and flows of the partition, as the execution sees them. */
async function readFlows(
  context: ExplainContext,
  id: ExecutionId,
  given: FlowId | undefined,
): Promise<FlowSeen[]> {
  const partition = partitionOf(id);
  const index = context.router.indexKeys(partition);
  const [sample] = await readAll(context, [command(partition, "srandmember", index.flowIndex, MAX_FLOWS)]);
  const listed = textsOf(sample).flatMap((text): FlowId[] => {
    const flow = parseFlowId(text);
    return flow.ok && flow.value !== given ? [flow.value] : [];
  });
  const flows = [...(given === undefined ? [] : [given]), ...listed];
  const replies = await readAll(
    context,
    flows.flatMap((flow) => {
      const keys = context.router.flowKeys(flow, partition);
      return [command(partition, "sismember", keys.members, id), command(partition, "exists", keys.purged)];
    }),
  );
  return flows.map((flow, position) => ({
    flow,
    isGiven: flow === given,
    listsIt: replies[2 * position] === 1,
    isPurged: replies[2 * position + 1] === 1,
  }));
}

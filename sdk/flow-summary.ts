/** Reads how far a flow has come, from the records of all its members. */

import { command, type Pipelines } from "#shared/contract/command.ts";
import { type FlowId, parseExecutionId } from "#shared/contract/ids.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText, PUBLIC_STATES, type PublicState } from "#shared/contract/record.ts";
import { ProtocolError } from "#shared/errors.ts";
import { valueOrThrow } from "#shared/valkey/batches.ts";

/** Members per page: one SSCAN and as many HGET. */
const PAGE = 1_000;

/** How many members have each `public_state`. */
type MembersByState = { readonly [Name in PublicState as `members_${Name}`]: number };

/** The fields of a flow's summary in the wire contract (section 14), counted over all members. */
export interface FlowSummary extends MembersByState {
  readonly total_members: number;
  /** Equals `total_members`: nothing is sampled. */
  readonly sampled_members: number;
  /** `failed`: all members have ended, and at least one failed, expired or was cancelled. */
  readonly public_flow_state: "completed" | "failed" | "running" | "blocked" | "open";
}

/**
 * Reads the summary of a flow from its members' records, 1,000 per round trip. Members that change meanwhile count in their
 * state before or after. A member without a record counts in `total_members` only, and so the flow is neither `completed` nor
 * `failed`.
 *
 * Undefined if the flow does not exist: it was never created, or was deleted after its retention.
 *
 * @throws ValkeyError if Valkey does not answer.
 *
 * @example
 * const summary = await readFlowSummary(sluice, flowId);
 * if (summary?.public_flow_state === "failed") console.log(`${summary.members_failed} tasks failed`);
 */
export async function readFlowSummary(
  { valkey, router }: { readonly valkey: Pipelines; readonly router: PartitionRouter },
  flowId: FlowId,
): Promise<FlowSummary | undefined> {
  const flow = router.flowKeys(flowId);
  const counts = new Map<string, number>();
  const seen = new Set<string>();
  let cursor = "0";
  do {
    const [exists, page] = await valkey.pipelined([
      command(flow.partition, "exists", flow.core),
      command(flow.partition, "sscan", flow.members, cursor, "COUNT", PAGE),
    ]);
    if (valueOrThrow(exists) !== 1) return undefined;
    const { next, members } = parsePage(valueOrThrow(page));
    // SSCAN may return a member more than once.
    const fresh = [...new Set(members)].filter((member) => !seen.has(member));
    for (const member of fresh) seen.add(member);
    for (const state of await statesOf(valkey, router, fresh)) {
      counts.set(state, (counts.get(state) ?? 0) + 1);
    }
    cursor = next;
  } while (cursor !== "0");
  return summarize(seen.size, counts);
}

async function statesOf(
  valkey: Pipelines,
  router: PartitionRouter,
  members: readonly string[],
): Promise<string[]> {
  const reads = members.flatMap((member) => {
    const id = parseExecutionId(member);
    if (!id.ok) return [];
    const { partition, core } = router.execKeys(id.value);
    return [command(partition, "hget", core, "public_state")];
  });
  if (reads.length === 0) return [];
  return (await valkey.pipelined(reads)).map((result) => fieldText(valueOrThrow(result)));
}

function parsePage(reply: unknown): { readonly next: string; readonly members: readonly string[] } {
  const [next, members]: readonly unknown[] = Array.isArray(reply) ? reply : [];
  if (!Array.isArray(members)) throw new ProtocolError("the reply of SSCAN is malformed");
  return { next: fieldText(next), members: members.map(fieldText) };
}

function summarize(total: number, counts: ReadonlyMap<string, number>): FlowSummary {
  const count = (...states: readonly PublicState[]): number =>
    states.reduce((sum, state) => sum + (counts.get(state) ?? 0), 0);
  const byState = Object.fromEntries(PUBLIC_STATES.map((state) => [`members_${state}`, count(state)]));
  const unsuccessful = count("failed", "cancelled", "expired");
  let state: FlowSummary["public_flow_state"] = "open";
  if (total > 0 && count("completed", "skipped") + unsuccessful === total) {
    state = unsuccessful > 0 ? "failed" : "completed";
  } else if (count("active") > 0) {
    state = "running";
  } else if (count("suspended", "delayed", "rate_limited", "waiting_children") > 0) {
    state = "blocked";
  }
  return {
    total_members: total,
    sampled_members: total,
    ...(byState as unknown as MembersByState),
    public_flow_state: state,
  };
}

/**
 * Decided edge groups whose siblings are still to be cancelled (contract, section 13; 14-KEYS edition). A sibling is an
 * upstream of the group's child that has not ended. The library records the group in `pending_cancel_groups` and the
 * siblings in the group's hash, in the call that decides the group.
 */

import { command, type Pipelines } from "#shared/contract/command.ts";
import { type ExecutionId, parseExecutionId } from "#shared/contract/ids.ts";
import type { FlowKeys, IndexKeys } from "#shared/contract/keys.ts";
import { fieldText } from "#shared/contract/record.ts";
import { pairResults } from "#shared/contract/results.ts";
import { drainSiblingCancelGroup } from "#shared/contract/upkeep.ts";
import { ValkeyError } from "#shared/errors.ts";
import { noResult } from "#shared/valkey/batches.ts";

/** All keys are under the tag of the child. */
export interface DecidedGroup {
  readonly flow: FlowKeys;
  readonly index: IndexKeys;
  readonly child: ExecutionId;
}

export type TakenGroup =
  /** Claimed by this caller. Ids that do not parse are left out: they count as cancelled. */
  | { readonly kind: "taken"; readonly siblings: readonly ExecutionId[]; readonly reason: string }
  /** Another caller is at it. */
  | { readonly kind: "in_progress" }
  | { readonly kind: "failed"; readonly error: ValkeyError };

/**
 * Claims groups and reads their siblings, in one round trip: one result per group, in their order.
 *
 * Without the claim, every delivery that finds the group pending would send a completion for each sibling. A claim ends
 * with `releaseGroups`, or after `ttlMs` if the caller dies.
 */
export async function takeGroups(
  valkey: Pipelines,
  groups: readonly DecidedGroup[],
  ttlMs: number,
): Promise<TakenGroup[]> {
  const replies = await valkey.pipelined(
    groups.flatMap(({ flow, child }) => [
      command(flow.partition, "set", flow.cancelClaim(child), "1", "NX", "PX", ttlMs),
      command(
        flow.partition,
        "hmget",
        flow.edgeGroup(child),
        "cancel_siblings_pending_members",
        "cancel_siblings_reason",
      ),
    ]),
  );
  return groups.map((_, position): TakenGroup => {
    const [claim = noResult(), fields = noResult()] = replies.slice(2 * position, 2 * position + 2);
    const failure = [claim, fields].find(({ ok }) => !ok);
    if (failure !== undefined && !failure.ok) {
      return { kind: "failed", error: new ValkeyError("reading a group failed", { cause: failure.error }) };
    }
    if (!claim.ok || claim.value !== "OK") return { kind: "in_progress" };
    const [members = "", reason = ""] =
      fields.ok && Array.isArray(fields.value) ? fields.value.map(fieldText) : [];
    const siblings = members.split("|").flatMap((member) => {
      const id = parseExecutionId(member);
      return id.ok ? [id.value] : [];
    });
    return { kind: "taken", siblings, reason };
  });
}

/** Removes groups whose siblings are all done. Returns those that are not removed, with the reason. */
export async function drainGroups<G extends DecidedGroup>(
  valkey: Pipelines,
  groups: readonly G[],
): Promise<{ readonly group: G; readonly error: ValkeyError }[]> {
  const replies = await valkey.pipelined(
    groups.map(({ flow, index, child }) => drainSiblingCancelGroup(flow, index, child)),
  );
  return pairResults(groups, replies, noResult).flatMap(({ item: group, result }) =>
    result.ok ? [] : [{ group, error: new ValkeyError("draining a group failed", { cause: result.error }) }],
  );
}

/** Removes the claims, so that another caller may continue. */
export async function releaseGroups(valkey: Pipelines, groups: readonly DecidedGroup[]): Promise<void> {
  await valkey.pipelined(
    groups.map(({ flow, child }) => command(flow.partition, "del", flow.cancelClaim(child))),
  );
}

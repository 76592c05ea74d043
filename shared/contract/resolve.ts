/** Calls `ff_resolve_dependency`, and decodes its reply (contract, sections 6 and 7). */

import { fcall, type ValkeyCommand } from "#shared/contract/command.ts";
import type { AttemptIndex, EdgeId, ExecutionId } from "#shared/contract/ids.ts";
import {
  type ExecKeys,
  type FlowKeys,
  type IndexKeys,
  type LaneKeys,
  noopKey,
} from "#shared/contract/keys.ts";
import type { TerminalOutcome } from "#shared/contract/record.ts";
import { type DecodedReply, decodeReply, malformedReply } from "#shared/contract/reply.ts";

/** An edge with a terminal upstream, and the child that depends on it. */
export interface Dependency {
  readonly edge: EdgeId;
  readonly upstream: ExecutionId;
  readonly flow: FlowKeys;
  /** The indexes of the flow's partition. */
  readonly flowIndex: IndexKeys;
  readonly child: ExecKeys;
  /** The child's lane. Undefined if the child's record is gone: then no index is written. */
  readonly lane: LaneKeys | undefined;
  readonly attempt: AttemptIndex;
}

/** How the upstream ended. */
export interface UpstreamEnd {
  readonly outcome: TerminalOutcome;
  /**
   * The `completed_at` of the upstream's record when its outcome was read. Sluice's library refuses the call with
   * `upstream_changed` if the record has a different one now. Empty: no check.
   */
  readonly completedAt: string;
}

/**
 * Builds the call, in the one shape that every library reads correctly: 14 KEYS and 6 ARGV. Libraries read KEYS and ARGV
 * by position and ignore the rest, so a library may be replaced at any moment. Called with 11 KEYS, a 14-KEYS library
 * would treat every group as `all_of` (contract, section 7).
 *
 * `nowMs` is in milliseconds since the epoch and becomes the `completed_at` of a child that this call skips.
 */
export function resolveDependency(
  dependency: Dependency,
  upstream: UpstreamEnd,
  nowMs: number,
): ValkeyCommand {
  const { child, edge, lane, attempt } = dependency;
  const { partition } = child;
  // All keys of a call share a slot. A child outside its flow's partition cannot have a group there.
  const flow = dependency.flow.under(partition);
  const unused = noopKey(partition);
  const keys = [
    child.core,
    child.depsMeta,
    child.depsUnresolved,
    child.dep(edge),
    lane?.eligible ?? unused,
    lane?.terminal ?? unused,
    lane?.blockedDependencies ?? unused,
    child.attempt(attempt),
    child.streamMeta(attempt),
    child.payload,
    child.resultOf(dependency.upstream),
    flow.edgeGroup(child.id),
    flow.incoming(child.id),
    dependency.flowIndex.under(partition).pendingCancelGroups,
  ];
  const args = [edge, upstream.outcome, nowMs, flow.id, child.id, upstream.completedAt];
  return fcall(partition, "ff_resolve_dependency", keys, args);
}

/** The effect of the call on the edge and its child. */
export type Resolution =
  | { readonly kind: "satisfied" }
  | { readonly kind: "impossible"; readonly childSkipped: boolean }
  /** The edge was already resolved: nothing was written. */
  | { readonly kind: "already_resolved" }
  /** 14-KEYS edition: the edge is counted, and its group is still undecided. */
  | { readonly kind: "pending" }
  /** 14-KEYS edition: the edge is counted, and its group was decided earlier. */
  | { readonly kind: "already_fired" }
  | { readonly kind: "refused"; readonly code: string; readonly detail: readonly string[] };

/** Decodes a reply. Returns a ProtocolError for any reply that the contract does not list. */
export function decodeResolution(raw: unknown): DecodedReply<Resolution> {
  const reply = decodeReply(raw);
  if (!reply.ok) return reply;
  if (reply.value.kind === "refused") return { ok: true, value: reply.value };
  const { status, fields } = reply.value;
  if (status !== "OK") return malformedReply("has a status that ff_resolve_dependency never returns", raw);
  switch (fields.join("|")) {
    case "already_resolved":
      return { ok: true, value: { kind: "already_resolved" } };
    case "satisfied|":
    case "satisfied|data_injected":
      return { ok: true, value: { kind: "satisfied" } };
    case "impossible|":
      return { ok: true, value: { kind: "impossible", childSkipped: false } };
    case "impossible|child_skipped":
      return { ok: true, value: { kind: "impossible", childSkipped: true } };
    case "pending|":
      return { ok: true, value: { kind: "pending" } };
    case "already_fired|":
      return { ok: true, value: { kind: "already_fired" } };
    default:
      return malformedReply("is not one of ff_resolve_dependency", raw);
  }
}

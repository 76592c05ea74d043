/** `ff_resolve_dependency`: its call in both editions, and its reply (contract, sections 6 and 7). */

import { fcall, type ValkeyCommand } from "#shared/contract/command.ts";
import type { Edition } from "#shared/contract/edition.ts";
import type { AttemptIndex, EdgeId, ExecutionId } from "#shared/contract/ids.ts";
import {
  type ExecKeys,
  type FlowKeys,
  type IndexKeys,
  type LaneKeys,
  noopKey,
} from "#shared/contract/keys.ts";
import type { TerminalOutcome } from "#shared/contract/record.ts";
import { type DecodedReply, decodeReply, malformed } from "#shared/contract/reply.ts";

/** One edge whose upstream has ended, and the child that it leads to. */
export interface Dependency {
  readonly edge: EdgeId;
  readonly upstream: ExecutionId;
  readonly flow: FlowKeys;
  /** The indexes of the flow's partition. */
  readonly flowIndex: IndexKeys;
  readonly child: ExecKeys;
  /** The child's lane; undefined where the child's record is gone, and no index may be written. */
  readonly lane: LaneKeys | undefined;
  readonly attempt: AttemptIndex;
}

/** `nowMs`: milliseconds since the epoch; becomes the `completed_at` of a child that this call skips. */
export function resolveDependency(
  edition: Edition,
  dependency: Dependency,
  outcome: TerminalOutcome,
  nowMs: number,
): ValkeyCommand {
  const { child, edge, lane, attempt, flow } = dependency;
  const { partition } = child;
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
  ];
  const args = [edge, outcome, nowMs];
  if (edition === 11) return fcall(partition, "ff_resolve_dependency", keys, args);
  return fcall(
    partition,
    "ff_resolve_dependency",
    [...keys, flow.edgeGroup(child.id), flow.incoming(child.id), dependency.flowIndex.pendingCancelGroups],
    [...args, flow.id, child.id],
  );
}

/** What the call did to the edge and its child. */
export type Resolution =
  | { readonly kind: "satisfied" }
  | { readonly kind: "impossible"; readonly childSkipped: boolean }
  /** The edge was resolved before; nothing was written. */
  | { readonly kind: "already_resolved" }
  /** 14-KEYS edition: the edge counts, and its group is not decided yet. */
  | { readonly kind: "pending" }
  /** 14-KEYS edition: the edge counts, and its group had been decided before. */
  | { readonly kind: "already_fired" }
  | { readonly kind: "refused"; readonly code: string; readonly detail: readonly string[] };

/** Decodes a reply strictly: whatever the contract does not list is a protocol error. */
export function decodeResolution(raw: unknown): DecodedReply<Resolution> {
  const reply = decodeReply(raw);
  if (!reply.ok) return reply;
  if (reply.value.kind === "refused") return { ok: true, value: reply.value };
  const { status, fields } = reply.value;
  if (status !== "OK") return malformed("has a status that ff_resolve_dependency does not give", raw);
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
      return malformed("is none that ff_resolve_dependency gives", raw);
  }
}

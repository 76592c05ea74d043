/** Edge groups set how many of a child's edges must succeed. 14-KEYS edition only (contract, section 7). */

import { fcall, type ValkeyCommand } from "#shared/contract/command.ts";
import type { ExecutionId } from "#shared/contract/ids.ts";
import type { FlowKeys } from "#shared/contract/keys.ts";

/** What happens to unfinished upstreams once the group is decided: they are marked for cancellation, or they run on. */
export type OnSatisfied = "cancel_remaining" | "let_run";

export type EdgeGroupPolicy =
  /** Every edge must succeed. The default if no policy is set. */
  | { readonly variant: "all_of" }
  | { readonly variant: "any_of"; readonly onSatisfied: OnSatisfied }
  /** At least `k` edges must succeed; `k` is 1 or more. */
  | { readonly variant: "quorum"; readonly onSatisfied: OnSatisfied; readonly k: number };

/**
 * `ff_set_edge_group_policy`: replies `OK, set` or `OK, already_set`. It refuses once an edge has been applied to the
 * child.
 */
export function setEdgeGroupPolicy(
  flow: FlowKeys,
  child: ExecutionId,
  policy: EdgeGroupPolicy,
  nowMs: number,
): ValkeyCommand {
  const onSatisfied = policy.variant === "all_of" ? "" : policy.onSatisfied;
  const k = policy.variant === "quorum" ? policy.k : "";
  return fcall(
    flow.partition,
    "ff_set_edge_group_policy",
    [flow.core, flow.edgeGroup(child)],
    [policy.variant, onSatisfied, k, nowMs],
  );
}

/** Cancels the siblings of decided groups, and finds those whose completion must be published. */

import {
  type CancelPorts,
  type CancelRequest,
  type CancelResult,
  cancelExecutions,
} from "#shared/cancellation/cancel-executions.ts";
import { command, type Pipelines, type ValkeyResult } from "#shared/contract/command.ts";
import { CASCADE_MARK_TTL_SECONDS, type ExecKeys } from "#shared/contract/keys.ts";
import { fieldText } from "#shared/contract/record.ts";
import { pairResults } from "#shared/contract/results.ts";
import { type SluiceError, ValkeyError } from "#shared/errors.ts";
import { noResult } from "#shared/valkey/batches.ts";

/** The state of a sibling after the attempt to cancel it. */
export type SiblingState =
  /** It ended otherwise, has no record, or its cancellation is published. */
  | { readonly kind: "done"; readonly isCancelledNow: boolean }
  /** It is cancelled, and its completion is not published. `completedAt` identifies this end. */
  | { readonly kind: "unpublished"; readonly completedAt: string; readonly isCancelledNow: boolean }
  | { readonly kind: "failed"; readonly error: SluiceError };

/**
 * Cancels siblings: one state per sibling, in their order. Never rejects. Takes three round trips per 500 siblings.
 *
 * A sibling that was cancelled before is unpublished as well, unless it has the mark: an earlier caller may have died
 * between the cancellation and the send.
 */
export async function cancelSiblings(
  ports: CancelPorts,
  siblings: readonly CancelRequest[],
): Promise<SiblingState[]> {
  const results = await cancelExecutions(ports, siblings);
  const cancelled = pairResults(siblings, results, notCancelled).filter(({ result }) => isCancelled(result));
  const marks = await ports.valkey.pipelined(
    cancelled.flatMap(({ item }) => {
      const { partition, core, cascade } = ports.router.execKeys(item.id);
      return [
        command(partition, "hmget", core, "terminal_outcome", "completed_at"),
        command(partition, "get", cascade),
      ];
    }),
  );
  const states = new Map(
    cancelled.map(({ item, result }, position) => {
      const [record = noResult(), mark = noResult()] = marks.slice(2 * position, 2 * position + 2);
      return [item, stateOf(result, record, mark)];
    }),
  );
  return pairResults(siblings, results, notCancelled).map(({ item, result }): SiblingState => {
    if (result.kind === "failed") return { kind: "failed", error: result.error };
    return states.get(item) ?? { kind: "done", isCancelledNow: false };
  });
}

interface PublishedSibling {
  readonly keys: ExecKeys;
  readonly completedAt: string;
}

/** Marks siblings whose completions the queue has accepted. A mark that cannot be written costs one more send. */
export async function markPublished(
  valkey: Pipelines,
  published: readonly PublishedSibling[],
): Promise<void> {
  await valkey.pipelined(
    published.map(({ keys, completedAt }) =>
      command(keys.partition, "set", keys.cascade, completedAt, "EX", CASCADE_MARK_TTL_SECONDS),
    ),
  );
}

function isCancelled(result: CancelResult): boolean {
  return result.kind === "cancelled" || (result.kind === "already_ended" && result.outcome === "cancelled");
}

function stateOf(result: CancelResult, record: ValkeyResult, mark: ValkeyResult): SiblingState {
  const failure = [record, mark].find(({ ok }) => !ok);
  if (failure !== undefined && !failure.ok) {
    return { kind: "failed", error: new ValkeyError("reading a sibling failed", { cause: failure.error }) };
  }
  const isCancelledNow = result.kind === "cancelled";
  const [outcome = "", completedAt = ""] =
    record.ok && Array.isArray(record.value) ? record.value.map(fieldText) : [];
  // It was replayed or deleted meanwhile: there is no end to publish.
  if (outcome !== "cancelled") return { kind: "done", isCancelledNow };
  if (mark.ok && mark.value === completedAt) return { kind: "done", isCancelledNow };
  return { kind: "unpublished", completedAt, isCancelledNow };
}

function notCancelled(): CancelResult {
  return { kind: "failed", error: new ValkeyError("the sibling has no result"), isPermanent: false };
}

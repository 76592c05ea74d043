/** Cancels members of a cancelled flow, and removes them from the flow's pending set. */

import {
  type CancelPorts,
  type CancelResult,
  cancelExecutions,
} from "#shared/cancellation/cancel-executions.ts";
import { parseExecutionId } from "#shared/contract/ids.ts";
import type { FlowKeys, IndexKeys } from "#shared/contract/keys.ts";
import { pairResults } from "#shared/contract/results.ts";
import { ackCancelMember } from "#shared/contract/upkeep.ts";
import { InvalidRecordError, ValkeyError } from "#shared/errors.ts";
import { noResult } from "#shared/valkey/batches.ts";

/** The result of one member. */
export interface MemberResult {
  /** The execution id, as the set holds it. It may be malformed. */
  readonly member: string;
  readonly result: CancelResult;
  /** Whether a repetition may still be needed: the cancellation or its acknowledgement failed, and the member is pending. */
  readonly isPending: boolean;
  /** Whether the member was removed from the pending set. */
  readonly isAcknowledged: boolean;
}

/** FlowFabric's libraries 5 and 6 lack the function. They record no pending members. */
const FUNCTION_MISSING = /^ERR Function not found/;

/**
 * Cancels members of a cancelled flow, and acknowledges each one that a repetition would not change: it has ended, has no
 * record, or cannot be cancelled. One result per member, in their order; never rejects.
 *
 * A member is acknowledged after its cancellation. If the caller dies in between, a repetition finds the member terminal.
 * No completion is sent: all children of the members are members of the same flow.
 */
export async function cancelMembers(
  ports: CancelPorts,
  flow: FlowKeys,
  index: IndexKeys,
  members: readonly string[],
  reason: string,
): Promise<MemberResult[]> {
  const parsed = members.map((member) => ({ member, id: parseExecutionId(member) }));
  const readable = parsed.flatMap(({ member, id }) => (id.ok ? [{ member, id: id.value }] : []));
  const cancelled = await cancelExecutions(
    ports,
    readable.map(({ id }) => ({ id, reason })),
  );
  const resultOf = new Map<string, CancelResult>(
    pairResults(readable, cancelled, notCancelled).map(({ item, result }) => [item.member, result]),
  );
  const results = parsed.map(({ member, id }) => ({
    member,
    result: resultOf.get(member) ?? unreadable(id.ok ? "no result" : id.error.message),
  }));
  const settled = results.filter(({ result }) => isSettled(result));
  const acks = await ports.valkey.pipelined(
    settled.map(({ member }) => ackCancelMember(flow, index, member)),
  );
  const acknowledged = new Map(
    pairResults(settled, acks, noResult).map(({ item, result }) => [item.member, result]),
  );
  return results.map(({ member, result }): MemberResult => {
    const ack = acknowledged.get(member);
    if (ack === undefined) return { member, result, isPending: true, isAcknowledged: false };
    const isPending = !ack.ok && !FUNCTION_MISSING.test(ack.error.message);
    return { member, result, isPending, isAcknowledged: ack.ok };
  });
}

/** Whether a repetition would change nothing. */
function isSettled(result: CancelResult): boolean {
  return result.kind !== "failed" || result.isPermanent;
}

function notCancelled(): CancelResult {
  return { kind: "failed", error: new ValkeyError("the member has no result"), isPermanent: false };
}

function unreadable(reason: string): CancelResult {
  return {
    kind: "failed",
    error: new InvalidRecordError(`not an execution id: ${reason}`),
    isPermanent: true,
  };
}

import { ProtocolError } from "#shared/errors.ts";

/**
 * All refusal codes of the contract (sections 6 and 7). `test/lua/codes.test.ts` checks that the Lua sources use the
 * same codes.
 */
export const REFUSAL_CODES = [
  "active_attempt_exists",
  "already_member_of_different_flow",
  "capability_mismatch",
  "claim_grant_expired",
  "cycle_detected",
  "dependency_already_exists",
  "deps_not_satisfied",
  "execution_already_in_flow",
  "execution_not_active",
  "execution_not_eligible",
  "execution_not_found",
  "execution_not_in_eligible_set",
  "execution_not_in_flow",
  "execution_not_leaseable",
  "execution_not_reclaimable",
  "execution_not_terminal",
  "fence_required",
  "flow_already_terminal",
  "flow_not_found",
  "flow_purged",
  "grant_already_exists",
  "invalid_args",
  "invalid_capabilities",
  "invalid_claim_grant",
  "invalid_dependency",
  "invalid_grace_ms",
  "invalid_input",
  "invalid_policy_json",
  "invariant_violation",
  "lease_conflict",
  "lease_expired",
  "lease_revoked",
  "max_replays_exhausted",
  "max_retries_exhausted",
  "no_active_lease",
  "not_blocked_by_deps",
  "not_runnable",
  "partial_fence_triple",
  "self_referencing_edge",
  "stale_graph_revision",
  "stale_lease",
  "terminal",
  "upstream_changed",
  "use_claim_resumed_execution",
] as const;

const REPLY_STATUSES = ["OK", "ALREADY_SATISFIED", "DUPLICATE"] as const;
export type ReplyStatus = (typeof REPLY_STATUSES)[number];

/** A decoded reply (contract, section 5). */
export type Reply =
  | { readonly kind: "done"; readonly status: ReplyStatus; readonly fields: readonly string[] }
  | { readonly kind: "refused"; readonly code: string; readonly detail: readonly string[] };

export type DecodedReply<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly error: ProtocolError };

const STATUSES: ReadonlySet<string> = new Set(REPLY_STATUSES);

/**
 * Decodes the reply of an FCALL: `[1, status, …fields]` or `[0, code, …detail]`, with strings or bytes as elements.
 * Returns a ProtocolError for anything else, including an unknown status.
 */
export function decodeReply(raw: unknown): DecodedReply<Reply> {
  if (!Array.isArray(raw)) return malformedReply("is not an array", raw);
  const [head, ...rest] = raw as readonly unknown[];
  const texts: string[] = [];
  for (const element of rest) {
    const text = textOf(element);
    if (text === undefined) return malformedReply("has an element that is not a string", raw);
    texts.push(text);
  }
  const [word, ...fields] = texts;
  if (word === undefined) return malformedReply("has no status", raw);
  if (head === 0) return { ok: true, value: { kind: "refused", code: word, detail: fields } };
  if (head !== 1) return malformedReply("starts with neither 0 nor 1", raw);
  if (!STATUSES.has(word)) return malformedReply("has an unknown status", raw);
  return { ok: true, value: { kind: "done", status: word as ReplyStatus, fields } };
}

/** Returns a ProtocolError that quotes the reply, truncated to 300 characters. */
export function malformedReply(what: string, raw: unknown): { ok: false; error: ProtocolError } {
  const shown = JSON.stringify([raw], (_, value: unknown) => textOf(value) ?? value);
  return { ok: false, error: new ProtocolError(`the reply ${what}: ${shown.slice(0, 300)}`) };
}

function textOf(element: unknown): string | undefined {
  if (typeof element === "string") return element;
  return Buffer.isBuffer(element) ? element.toString("utf8") : undefined;
}

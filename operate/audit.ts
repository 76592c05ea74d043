/** The audit trail: a stream in Valkey with one entry for each command that changes state. */

import { AUDIT_KEY } from "#shared/contract/keys.ts";
import { ProtocolError } from "#shared/errors.ts";
import type { Valkey } from "#shared/valkey/client.ts";

/** About how many entries the stream keeps. The oldest are trimmed. */
const MAX_AUDIT_ENTRIES = 10_000;
/** Longer values are cut: an entry stays small whatever a caller sends. */
const MAX_VALUE = 2_000;

export interface AuditEntry {
  readonly operation: string;
  readonly actor: string;
  readonly target: string;
  readonly reason: string;
}

/** An entry with its id in the stream, and the server's time of it in milliseconds since the epoch. */
export interface StoredAuditEntry extends AuditEntry {
  readonly id: string;
  readonly recordedAt: number;
}

const FIELDS = ["operation", "actor", "target", "reason"] as const;

/**
 * Appends an entry. It is written before the first change: a crash can leave an entry without a change, but never a change
 * without an entry.
 *
 * @throws ValkeyError if Valkey does not accept it. Nothing may be changed then.
 */
export async function recordAudit(valkey: Valkey, entry: AuditEntry): Promise<void> {
  const fields = FIELDS.flatMap((name) => [name, entry[name].slice(0, MAX_VALUE)]);
  await valkey.call("xadd", AUDIT_KEY, "MAXLEN", "~", MAX_AUDIT_ENTRIES, "*", ...fields);
}

/** Reads up to `limit` entries, the newest first, that are older than the entry `before`. */
export async function readAudit(
  valkey: Valkey,
  { before, limit }: { readonly before?: string | undefined; readonly limit: number },
): Promise<StoredAuditEntry[]> {
  const end = before === undefined ? "+" : `(${before}`;
  const reply = await valkey.call("xrevrange", AUDIT_KEY, end, "-", "COUNT", limit);
  if (!Array.isArray(reply)) throw new ProtocolError("the reply of XREVRANGE is malformed");
  return reply.map(parseEntry);
}

function parseEntry(entry: unknown): StoredAuditEntry {
  const [id, words]: readonly unknown[] = Array.isArray(entry) ? entry : [];
  if (!Array.isArray(words)) throw new ProtocolError("the reply of XREVRANGE is malformed");
  const textOf = (name: string): string => {
    const at = words.findIndex((word, index) => index % 2 === 0 && String(word) === name);
    return at < 0 ? "" : String(words[at + 1]);
  };
  const stored = String(id);
  return {
    id: stored,
    recordedAt: Number(stored.split("-")[0]),
    operation: textOf("operation"),
    actor: textOf("actor"),
    target: textOf("target"),
    reason: textOf("reason"),
  };
}

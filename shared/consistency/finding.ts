/** What the consistency check reports. */

export type FindingKind =
  /** An index has an entry that the record does not allow, or for which there is no record. */
  | "stale_entry"
  /** The record requires an entry that the index does not have. */
  | "missing_entry"
  | "wrong_score"
  /** A counter differs from what it counts. */
  | "wrong_count"
  /** A key that another one names does not exist. */
  | "missing_key"
  /** A key exists that the record does not allow. */
  | "unexpected_key"
  /** A field differs from the same value in another key. */
  | "wrong_field"
  /** A record has a state that the contract does not define. */
  | "invalid_record"
  /** An execution waits for dependencies although none is unresolved. */
  | "stuck"
  /** An edge is staged but not applied to its downstream. */
  | "unapplied_edge";

export interface Finding {
  readonly kind: FindingKind;
  /** The key that is wrong. */
  readonly key: string;
  /** The entry of the index or the field of the hash; empty if the key as a whole is meant. */
  readonly member: string;
  readonly found: string;
  readonly expected: string;
  /** What an operator can do. */
  readonly action: string;
}

/** Returns a finding as one line of text. */
export function describeFinding({ kind, key, member, found, expected, action }: Finding): string {
  const where = member === "" ? key : `${key}, ${member}`;
  return `${kind} in ${where}: found ${found}, expected ${expected}; ${action}`;
}

/** Two findings with the same identity are about the same entry. */
function identityOf({ kind, key, member }: Finding): string {
  return JSON.stringify([kind, key, member]);
}

/** The findings of the second list that the first one has too. */
function inBoth(first: readonly Finding[], second: readonly Finding[]): Finding[] {
  const identities = new Set(first.map(identityOf));
  return second.filter((finding) => identities.has(identityOf(finding)));
}

const MAX_READS = 3;

/**
 * Runs a check of something that other clients may change meanwhile. `readState` reads what tells such a change: a result
 * counts only if the state is the same before and after the check. Whatever is found is then checked once more, and only
 * what is found again is returned. If the state changes during each of three checks, nothing is returned: a client that
 * changes it is at work, and a later run finds what is wrong.
 */
export async function confirmed(
  readState: () => Promise<readonly string[]>,
  check: (state: readonly string[]) => Promise<readonly Finding[]>,
): Promise<readonly Finding[]> {
  let earlier: readonly Finding[] | undefined;
  let before = await readState();
  for (let read = 0; read < MAX_READS; read += 1) {
    const found = await check(before);
    const after = await readState();
    if (before.join("\n") === after.join("\n")) {
      if (found.length === 0) return [];
      if (earlier !== undefined) return inBoth(earlier, found);
      earlier = found;
    }
    before = after;
  }
  return [];
}

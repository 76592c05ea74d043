/** Libraries of other releases of Sluice, and servers without a library. */

import { librarySource } from "#lua/library.ts";
import { EDITION_KEY } from "#shared/contract/keys.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { type LibraryRelease, RELEASE_0_1_FUNCTIONS } from "#shared/valkey/library.ts";
import { onEveryPrimary } from "#test/support/valkey.ts";

/** Removes every library, and the record of the edition: afterwards, either edition can be loaded. */
export async function unloadLibrary(valkey: Valkey): Promise<void> {
  await onEveryPrimary(valkey, "function", "FLUSH", "SYNC");
  await valkey.call("del", EDITION_KEY);
}

const REVISION_LINE = /^local LIBRARY_REVISION = '\d+'$/m;
/** A registration: on one line, or on several lines up to a brace at the start of a line. */
const REGISTRATION = /^server\.register_function\{(?: .*\}|\n(?:.*\n)*?\})$/gm;
const FUNCTION_NAME = /function_name = '(\w+)'/;

/** The current library as if it had this revision. The text differs as well. */
export function releaseOfRevision(revision: number): LibraryRelease {
  return {
    revision,
    source: (edition) =>
      replaceOnce(
        librarySource(edition),
        REVISION_LINE,
        `local LIBRARY_REVISION = '${revision}'\n-- another text`,
      ),
  };
}

/** A library like release 0.1's: it has only that release's functions, no revision, and it rejects surplus KEYS. */
export function librarySourceOf01(edition: 11 | 14): string {
  const source = librarySource(edition).replace(REGISTRATION, (registration) => {
    const name = FUNCTION_NAME.exec(registration)?.[1];
    if (name === undefined) throw new Error(`the registration has no name: ${registration}`);
    return RELEASE_0_1_FUNCTIONS.has(name) ? registration : "";
  });
  return replaceOnce(source, /#keys < key_count/, "#keys ~= key_count");
}

function replaceOnce(text: string, pattern: RegExp, replacement: string): string {
  if (!pattern.test(text)) throw new Error(`the library has no ${String(pattern)}`);
  return text.replace(pattern, replacement);
}

import { functionNames, LIBRARY_NAME, librarySource } from "#lua/library.ts";
import type { Edition } from "#shared/contract/edition.ts";
import { EDITION_KEY } from "#shared/contract/keys.ts";
import { ConfigurationError, ProtocolError } from "#shared/errors.ts";
import type { Valkey, ValkeyNode } from "#shared/valkey/client.ts";

/**
 * The result of `ensureLibrary`.
 * - `loaded`: the library was loaded or replaced on at least one primary.
 * - `current`: every primary already had this library.
 * - `foreign`: a primary has another vendor's library of the same name, recognized by functions that Sluice's lacks.
 *   Nothing was changed on any primary: two libraries must not be mixed.
 */
export type LibraryState = "loaded" | "current" | "foreign";

/** The library that a primary has under our library's name, or undefined if it has none. */
type InstalledLibrary = { readonly edition: Edition; readonly code: string } | "foreign" | undefined;

const ALREADY_EXISTS = /already exists/i;
/** Attempts, in case other clients load libraries at the same time. */
const MAX_ATTEMPTS = 3;

/**
 * Loads Sluice's library on every primary that lacks it. Idempotent, and safe to call concurrently.
 *
 * `requested` is the edition for all primaries: Sluice's library of the other edition is replaced. With `auto`, the
 * edition that is loaded on some primary is loaded on all. If none has the library, the recorded edition is loaded (see
 * `recordEdition`), or `defaultEdition` if none is recorded. The record matters after FUNCTION FLUSH: the 11-KEYS edition
 * would ignore the edge groups of the 14-KEYS edition.
 *
 * Rejects with a ValkeyError if a command fails, with a ProtocolError if FUNCTION LIST returns a malformed reply, and
 * under `auto` with a ConfigurationError if the primaries have different editions.
 */
export async function ensureLibrary(
  valkey: Valkey,
  requested: Edition | "auto" = "auto",
  defaultEdition: Edition = 11,
): Promise<LibraryState> {
  const nodes = await valkey.primaries();
  let hasLoaded = false;
  for (let attempt = 1; ; attempt += 1) {
    const found = await Promise.all(nodes.map(fetchInstalledLibrary));
    if (found.includes("foreign")) return "foreign";
    const edition =
      requested === "auto"
        ? (installedEdition(found) ?? (await recordedEdition(valkey)) ?? defaultEdition)
        : requested;
    // Record the edition before loading it: a crash in between must not leave an unrecorded edition loaded.
    await recordEdition(valkey, edition);
    const source = librarySource(edition);
    const loads = await Promise.allSettled(nodes.map((node, index) => load(node, found[index], source)));
    if (loads.some((result) => result.status === "fulfilled" && result.value)) hasLoaded = true;
    const failure = loads.find((result) => result.status === "rejected");
    if (failure === undefined) return hasLoaded ? "loaded" : "current";
    // Another client has loaded a library of this name in the meantime, perhaps another edition or a foreign one: check
    // again. The error also occurs if another library has a function of the same name: then no attempt succeeds.
    if (attempt === MAX_ATTEMPTS || !isAlreadyExistsError(failure.reason)) throw failure.reason;
  }
}

function isAlreadyExistsError(error: unknown): boolean {
  return error instanceof Error && ALREADY_EXISTS.test(error.message);
}

/** Records the edition, so that `ensureLibrary` restores the same one after the functions were flushed. */
export async function recordEdition(valkey: Valkey, edition: Edition): Promise<void> {
  if ((await recordedEdition(valkey)) !== edition) await valkey.call("set", EDITION_KEY, edition);
}

async function recordedEdition(valkey: Valkey): Promise<Edition | undefined> {
  const text = String(await valkey.call("get", EDITION_KEY));
  if (text === "11") return 11;
  return text === "14" ? 14 : undefined;
}

/** Returns the edition of Sluice's library on the primaries, or undefined if none has it. */
function installedEdition(found: readonly InstalledLibrary[]): Edition | undefined {
  const editions = new Set(found.flatMap((library) => (typeof library === "object" ? library.edition : [])));
  if (editions.size > 1) {
    throw new ConfigurationError([
      `the primaries have different editions of the ${LIBRARY_NAME} library: ` +
        "set LIBRARY_EDITION to 11 or 14 to load the same one on all of them",
    ]);
  }
  const [edition] = editions;
  return edition;
}

/** Loads the library on a primary. Returns false if the primary already has it. */
async function load(node: ValkeyNode, found: InstalledLibrary, source: string): Promise<boolean> {
  if (found === undefined) {
    await node.call("function", "LOAD", source);
    return true;
  }
  if (found !== "foreign" && found.code === source) return false;
  await node.call("function", "LOAD", "REPLACE", source);
  return true;
}

/**
 * Identifies a library by its functions. A function that neither of our editions has makes it foreign. A function that
 * only the 14-KEYS edition has makes it that edition.
 */
function identifyLibrary(code: string, functions: readonly string[]): InstalledLibrary {
  const [names11, names14] = [namesIn(11), namesIn(14)];
  if (functions.some((name) => !names11.has(name) && !names14.has(name))) return "foreign";
  return { edition: functions.every((name) => names11.has(name)) ? 11 : 14, code };
}

function namesIn(edition: Edition): ReadonlySet<string> {
  return new Set(functionNames(librarySource(edition)));
}

async function fetchInstalledLibrary(node: ValkeyNode): Promise<InstalledLibrary> {
  const reply = await node.call("function", "LIST", "LIBRARYNAME", LIBRARY_NAME, "WITHCODE");
  if (!Array.isArray(reply)) throw new ProtocolError("the reply of FUNCTION LIST is not an array");
  const listed: readonly unknown[] = reply;
  for (const entry of listed) {
    const library = fieldsOf(entry);
    const code = library.get("library_code");
    const functions = library.get("functions");
    // LIBRARYNAME is a pattern: make sure that the name is equal.
    if (library.get("library_name") !== LIBRARY_NAME) continue;
    if (typeof code !== "string" || !Array.isArray(functions)) {
      throw new ProtocolError("FUNCTION LIST returned a library without code or functions");
    }
    return identifyLibrary(
      code,
      functions.map((one: unknown) => String(fieldsOf(one).get("name"))),
    );
  }
  return undefined;
}

/** Reads a map in RESP2's form: a flat array of alternating names and values. */
function fieldsOf(flat: unknown): Map<unknown, unknown> {
  const fields = new Map<unknown, unknown>();
  if (!Array.isArray(flat)) return fields;
  const elements: readonly unknown[] = flat;
  for (let at = 0; at + 1 < elements.length; at += 2) fields.set(elements[at], elements[at + 1]);
  return fields;
}

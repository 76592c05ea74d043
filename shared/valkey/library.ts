import { functionNames, LIBRARY_NAME, librarySource } from "#lua/library.ts";
import type { Edition } from "#shared/contract/edition.ts";
import { EDITION_KEY } from "#shared/contract/keys.ts";
import { ConfigurationError, ProtocolError } from "#shared/errors.ts";
import type { Valkey, ValkeyNode } from "#shared/valkey/client.ts";

/**
 * `loaded`: at least one primary lacked the library, or had another one of ours, and has it now.
 * `current`: all had it. `foreign`: a primary has a library with functions that ours lacks, written by
 * somebody else; nothing was touched on any primary, since two libraries must not be mixed.
 */
export type LibraryState = "loaded" | "current" | "foreign";

/** What a primary has under the library's name; undefined: nothing. */
type Found = { readonly edition: Edition; readonly code: string } | "foreign" | undefined;

const ALREADY_THERE = /already exists/i;
/** Looks at the primaries, when somebody else loads libraries at the same time. */
const MAX_LOOKS = 3;

/**
 * Makes the library available on every primary; whoever calls it twice, or at the same time as others,
 * changes nothing more.
 *
 * `wanted` is the edition that every primary shall have: one of ours of the other edition is replaced. `auto`
 * stays with the edition of ours that is loaded, and loads it where a primary lacks it; where no primary has any, it
 * loads the one that is recorded as last loaded or detectedEdition, and only where none is recorded, `preset`: flushed
 * functions must not come back in an edition that takes a group of edges for none.
 *
 * Rejects with what the server or the client raised, with a ProtocolError when FUNCTION LIST replies something
 * else than libraries, and under `auto` with a ConfigurationError when the primaries have both editions.
 */
export async function ensureLibrary(
  valkey: Valkey,
  wanted: Edition | "auto" = "auto",
  preset: Edition = 11,
): Promise<LibraryState> {
  const nodes = await valkey.primaries();
  let hasLoaded = false;
  for (let look = 1; ; look += 1) {
    const found = await Promise.all(nodes.map(libraryOf));
    if (found.includes("foreign")) return "foreign";
    const edition =
      wanted === "auto" ? (editionAmong(found) ?? (await recordedEdition(valkey)) ?? preset) : wanted;
    // Recorded first: whoever dies in between has loaded nothing yet.
    await recordEdition(valkey, edition);
    const source = librarySource(edition);
    const loads = await Promise.allSettled(nodes.map((node, index) => load(node, found[index], source)));
    if (loads.some((result) => result.status === "fulfilled" && result.value)) hasLoaded = true;
    const failure = loads.find((result) => result.status === "rejected");
    if (failure === undefined) return hasLoaded ? "loaded" : "current";
    // Somebody loaded one since we looked: it may be of another edition, or not ours at all. But where the name
    // is a function of another library, looking again won't help.
    if (look === MAX_LOOKS || !isAlreadyThere(failure.reason)) throw failure.reason;
  }
}

function isAlreadyThere(error: unknown): boolean {
  return error instanceof Error && ALREADY_THERE.test(error.message);
}

/** Records the edition that is detectedEdition here, for the day when nobody has the library any more. */
export async function recordEdition(valkey: Valkey, edition: Edition): Promise<void> {
  if ((await recordedEdition(valkey)) !== edition) await valkey.call("set", EDITION_KEY, edition);
}

async function recordedEdition(valkey: Valkey): Promise<Edition | undefined> {
  const text = String(await valkey.call("get", EDITION_KEY));
  if (text === "11") return 11;
  return text === "14" ? 14 : undefined;
}

/** The one edition of ours that primaries have; undefined where none has any. */
function editionAmong(found: readonly Found[]): Edition | undefined {
  const editions = new Set(found.flatMap((library) => (typeof library === "object" ? library.edition : [])));
  if (editions.size > 1) {
    throw new ConfigurationError([
      `some primaries have the 11-KEYS edition of the ${LIBRARY_NAME} library and some the 14-KEYS one: ` +
        "set LIBRARY_EDITION to 11 or 14 to say which one all shall have",
    ]);
  }
  const [edition] = editions;
  return edition;
}

/** Whether it had to be loaded. */
async function load(node: ValkeyNode, found: Found, source: string): Promise<boolean> {
  if (found === undefined) {
    await node.call("function", "LOAD", source);
    return true;
  }
  if (found !== "foreign" && found.code === source) return false;
  await node.call("function", "LOAD", "REPLACE", source);
  return true;
}

/** Ours is what has no function that ours lacks; the edition is told by the functions that only one of them has. */
function recognise(code: string, functions: readonly string[]): Found {
  const [names11, names14] = [namesIn(11), namesIn(14)];
  if (functions.some((name) => !names11.has(name) && !names14.has(name))) return "foreign";
  return { edition: functions.every((name) => names11.has(name)) ? 11 : 14, code };
}

function namesIn(edition: Edition): ReadonlySet<string> {
  return new Set(functionNames(librarySource(edition)));
}

async function libraryOf(node: ValkeyNode): Promise<Found> {
  const reply = await node.call("function", "LIST", "LIBRARYNAME", LIBRARY_NAME, "WITHCODE");
  if (!Array.isArray(reply)) throw new ProtocolError("FUNCTION LIST replied no array");
  const listed: readonly unknown[] = reply;
  for (const entry of listed) {
    const library = fieldsOf(entry);
    const code = library.get("library_code");
    const functions = library.get("functions");
    // LIBRARYNAME is a pattern, and patterns ignore nothing of a plain name; the check costs nothing.
    if (library.get("library_name") !== LIBRARY_NAME) continue;
    if (typeof code !== "string" || !Array.isArray(functions)) {
      throw new ProtocolError("FUNCTION LIST replied a library without code or functions");
    }
    return recognise(
      code,
      functions.map((one: unknown) => String(fieldsOf(one).get("name"))),
    );
  }
  return undefined;
}

/** A flat array of names and values, as RESP2 has instead of maps. */
function fieldsOf(flat: unknown): Map<unknown, unknown> {
  const fields = new Map<unknown, unknown>();
  if (!Array.isArray(flat)) return fields;
  const elements: readonly unknown[] = flat;
  for (let at = 0; at + 1 < elements.length; at += 2) fields.set(elements[at], elements[at + 1]);
  return fields;
}

import { functionNames, LIBRARY_NAME, LIBRARY_SOURCE } from "#lua/library.ts";
import { ProtocolError } from "#shared/errors.ts";
import type { Valkey, ValkeyNode } from "#shared/valkey/client.ts";

/**
 * `loaded`: at least one primary lacked the library, or had an older one of ours, and has it now.
 * `current`: all had it. `foreign`: a primary has a library with functions that ours lacks, written by
 * somebody else; nothing was touched on any primary, since two libraries must not be mixed.
 */
export type LibraryState = "loaded" | "current" | "foreign";

interface LoadedLibrary {
  readonly code: string;
  readonly functions: readonly string[];
}

type Plan = "keep" | "load" | "replace" | "foreign";

const ALREADY_THERE = /already exists/i;

/**
 * Makes the library available on every primary; whoever calls it twice, or at the same time as others,
 * changes nothing more. Rejects with what the server or the client raised, and with a ProtocolError when
 * FUNCTION LIST replies something else than libraries.
 */
export async function ensureLibrary(valkey: Valkey, source: string = LIBRARY_SOURCE): Promise<LibraryState> {
  const nodes = await valkey.primaries();
  const plans = await Promise.all(nodes.map(async (node) => planFor(await libraryOf(node), source)));
  if (plans.includes("foreign")) return "foreign";
  const states = await Promise.all(
    nodes.map(async (node, index) => {
      const plan = plans[index];
      return plan === "load" || plan === "replace" ? load(node, plan, source) : "current";
    }),
  );
  if (states.includes("foreign")) return "foreign";
  return states.includes("loaded") ? "loaded" : "current";
}

function planFor(loaded: LoadedLibrary | undefined, source: string): Plan {
  if (loaded === undefined) return "load";
  if (loaded.code === source) return "keep";
  const ours = new Set(functionNames(source));
  return loaded.functions.every((name) => ours.has(name)) ? "replace" : "foreign";
}

async function load(node: ValkeyNode, plan: "load" | "replace", source: string): Promise<LibraryState> {
  if (plan === "replace") {
    await node.call("function", "LOAD", "REPLACE", source);
    return "loaded";
  }
  try {
    await node.call("function", "LOAD", source);
    return "loaded";
  } catch (error) {
    if (!(error instanceof Error && ALREADY_THERE.test(error.message))) throw error;
    // Somebody loaded one since we looked: whose is it?
    const found = planFor(await libraryOf(node), source);
    if (found === "keep") return "current";
    if (found === "foreign") return "foreign";
    // Absent still: the name that exists is a function of another library, and looking again won't help.
    if (found === "load") throw error;
    return load(node, "replace", source);
  }
}

async function libraryOf(node: ValkeyNode): Promise<LoadedLibrary | undefined> {
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
    return { code, functions: functions.map((one: unknown) => String(fieldsOf(one).get("name"))) };
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

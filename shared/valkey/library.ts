import { LIBRARY_NAME, librarySource } from "#lua/library.ts";
import { LIBRARY_REVISION } from "#lua/revision.ts";
import type { Edition } from "#shared/contract/edition.ts";
import { EDITION_KEY } from "#shared/contract/keys.ts";
import { ConfigurationError, ProtocolError } from "#shared/errors.ts";
import { isUnavailable, type Valkey, type ValkeyNode } from "#shared/valkey/client.ts";

/**
 * The result of `ensureLibrary`.
 * - `loaded`: the library was loaded or replaced on at least one primary.
 * - `current`: every primary already had this revision or a later one.
 * - `foreign`: a primary has another vendor's library of the same name. Nothing was changed on any primary: two libraries
 *   must not be mixed.
 */
export type LibraryState = "loaded" | "current" | "foreign";

/** A revision of Sluice's library, and its text for each edition. */
export interface LibraryRelease {
  readonly revision: number;
  readonly source: (edition: Edition) => string;
}

const CURRENT_RELEASE: LibraryRelease = { revision: LIBRARY_REVISION, source: librarySource };

interface Primary {
  readonly node: ValkeyNode;
  readonly library: LoadedLibrary;
}

/** The library that a primary has under our library's name; undefined if it has none. */
export type LoadedLibrary = SluiceLibrary | "foreign" | undefined;

export interface SluiceLibrary {
  readonly edition: Edition;
  /** 0: release 0.1, which has no revision. */
  readonly revision: number;
}

const ALREADY_EXISTS = /already exists/i;
/** Timeout of a check of one node among several, in milliseconds. */
const CHECK_TIMEOUT_MS = 2_000;
/** Attempts, in case other clients load libraries at the same time. */
const MAX_ATTEMPTS = 4;

/**
 * Loads Sluice's library on every primary that lacks it or has an earlier revision. Idempotent, and safe to call
 * concurrently: the same or a later revision is not replaced, whatever its text. One race remains, because FUNCTION LOAD
 * has no condition: if two releases replace an even earlier library within milliseconds, the earlier may be the last.
 *
 * `requested` is the edition for all primaries: 14 also replaces the 11-KEYS edition. With `auto`, the edition that is
 * loaded on some primary is loaded on all. If none has the library, the recorded edition is loaded (see `recordEdition`),
 * or `defaultEdition` if none is recorded. The 14-KEYS edition is never replaced by the 11-KEYS edition, not even after
 * FUNCTION FLUSH: that would ignore edge groups, and skip a child of an `any_of` group at the first failure.
 *
 * Rejects with a ValkeyError if a command fails, and with a ProtocolError if FUNCTION LIST returns a malformed reply.
 * Rejects with a ConfigurationError, before anything is written, if edition 11 is requested where edition 14 is loaded or
 * recorded, if a later revision is loaded in another edition than the requested one, or if the primaries have different
 * editions under `auto`.
 */
export async function ensureLibrary(
  valkey: Valkey,
  requested: Edition | "auto" = "auto",
  defaultEdition: Edition = 11,
  release: LibraryRelease = CURRENT_RELEASE,
): Promise<LibraryState> {
  const nodes = await valkey.primaries();
  let hasLoaded = false;
  for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt += 1) {
    const primaries = await Promise.all(
      nodes.map(async (node): Promise<Primary> => ({ node, library: await fetchLibrary(node) })),
    );
    if (primaries.some(({ library }) => library === "foreign")) return "foreign";
    const recorded = await recordedEdition(valkey);
    const refusal = refuseEdition(primaries, requested, recorded, release);
    if (refusal !== undefined && !hasLoaded) throw refusal;
    // After a load, a refusal means that another client changed the edition meanwhile. This call may have replaced the
    // 14-KEYS edition then: restore it before the refusal.
    const edition =
      refusal !== undefined || recorded === 14
        ? 14
        : requested === "auto"
          ? (editionsOf(primaries)[0] ?? recorded ?? defaultEdition)
          : requested;
    const outdated = primaries.filter(({ library }) => mustLoad(library, edition, release));
    // Record the edition before loading it: a crash in between must not leave an unrecorded edition loaded.
    await recordEdition(valkey, edition);
    const source = release.source(edition);
    const loads = await Promise.allSettled(outdated.map((primary) => load(primary, source)));
    if (loads.some(({ status }) => status === "fulfilled")) hasLoaded = true;
    const failure = loads.find((result) => result.status === "rejected");
    // Another client has loaded a library of this name in the meantime, perhaps another edition or a foreign one: check
    // again. The error also occurs if another library has a function of the same name: then no attempt succeeds.
    if (failure !== undefined && (attempt === MAX_ATTEMPTS || !isAlreadyExistsError(failure.reason))) {
      throw failure.reason;
    }
    if (refusal !== undefined && requested !== "auto") throw refusal;
    if (outdated.length === 0) break;
    // Check again what was loaded: another client may have recorded or loaded a different edition at the same time.
  }
  return hasLoaded ? "loaded" : "current";
}

function isAlreadyExistsError(error: unknown): boolean {
  return error instanceof Error && ALREADY_EXISTS.test(error.message);
}

/**
 * Records the edition, so that `ensureLibrary` restores the same one after the functions were flushed. A recorded edition
 * 14 stays: edge groups may exist, and the 11-KEYS edition would ignore them.
 */
export async function recordEdition(valkey: Valkey, edition: Edition): Promise<void> {
  const recorded = await recordedEdition(valkey);
  if (recorded === edition || recorded === 14) return;
  // NX: another client may record 14 at this moment.
  await valkey.call("set", EDITION_KEY, edition, ...(edition === 11 ? ["NX"] : []));
}

/** The edition that `recordEdition` has recorded. */
export async function recordedEdition(valkey: Valkey): Promise<Edition | undefined> {
  const text = String(await valkey.call("get", EDITION_KEY));
  if (text === "11") return 11;
  return text === "14" ? 14 : undefined;
}

/**
 * Whether a primary has another vendor's library of our library's name. Primaries that cannot be reached do not count.
 * Rejects with a ValkeyError if FUNCTION LIST fails.
 */
export async function hasForeignLibrary(valkey: Valkey): Promise<boolean> {
  const nodes = await valkey.primaries();
  const libraries = await Promise.all(
    nodes.map(async (node) => {
      try {
        return await fetchLibrary(nodes.length > 1 ? impatient(node) : node);
      } catch (error) {
        if (!isUnavailable(error)) throw error;
        return undefined;
      }
    }),
  );
  return libraries.includes("foreign");
}

/** A silent node must not delay the work on the others. */
function impatient(node: ValkeyNode): Pick<ValkeyNode, "call"> {
  return { call: (name, ...args) => node.callWithin(CHECK_TIMEOUT_MS, name, ...args) };
}

/** The different editions of Sluice's library on the primaries. */
function editionsOf(primaries: readonly Primary[]): Edition[] {
  return [
    ...new Set(primaries.flatMap(({ library }) => (typeof library === "object" ? library.edition : []))),
  ];
}

/** Returns an error if the requested edition must not be loaded. */
function refuseEdition(
  primaries: readonly Primary[],
  requested: Edition | "auto",
  recorded: Edition | undefined,
  release: LibraryRelease,
): ConfigurationError | undefined {
  const editions = editionsOf(primaries);
  if (requested === "auto") {
    if (editions.length < 2) return undefined;
    return new ConfigurationError([
      `the primaries have different editions of the ${LIBRARY_NAME} library: ` +
        "set LIBRARY_EDITION to 14 to load the 14-KEYS edition on all of them",
    ]);
  }
  if (requested === 11 && (editions.includes(14) || recorded === 14)) {
    const evidence = editions.includes(14)
      ? `Valkey has the 14-KEYS edition of the ${LIBRARY_NAME} library`
      : `${EDITION_KEY} records that Valkey had the 14-KEYS edition of the ${LIBRARY_NAME} library`;
    return new ConfigurationError([
      `LIBRARY_EDITION is 11, but ${evidence}, which is never replaced by the 11-KEYS edition: children with edge groups ` +
        "would be skipped wrongly; set LIBRARY_EDITION to 14 or auto",
    ]);
  }
  const later = primaries.find(
    ({ library }) =>
      typeof library === "object" && library.edition !== requested && library.revision > release.revision,
  );
  if (later === undefined) return undefined;
  return new ConfigurationError([
    `LIBRARY_EDITION is ${requested}, but ${later.node.name} has a later revision of the ${LIBRARY_NAME} library in the ` +
      `other edition, and a later revision is never replaced by revision ${release.revision}: deploy the later release`,
  ]);
}

function mustLoad(library: LoadedLibrary, edition: Edition, release: LibraryRelease): boolean {
  if (typeof library !== "object") return true;
  if (library.revision !== release.revision) return library.revision < release.revision;
  return library.edition < edition;
}

async function load({ node, library }: Primary, source: string): Promise<void> {
  // Without REPLACE, the command fails if another client has loaded a library in the meantime.
  await node.call("function", "LOAD", ...(library === undefined ? [] : ["REPLACE"]), source);
}

/** The functions of release 0.1, whose library has no revision. The last one is only in its 14-KEYS edition. */
export const RELEASE_0_1_FUNCTIONS: ReadonlySet<string> = new Set([
  "ff_add_execution_to_flow",
  "ff_apply_dependency_to_child",
  "ff_cancel_execution",
  "ff_cancel_flow",
  "ff_claim_execution",
  "ff_complete_execution",
  "ff_create_execution",
  "ff_create_flow",
  "ff_evaluate_flow_eligibility",
  "ff_fail_execution",
  "ff_issue_claim_grant",
  "ff_promote_blocked_to_eligible",
  "ff_promote_delayed",
  "ff_replay_execution",
  "ff_resolve_dependency",
  "ff_stage_dependency_edge",
  "ff_version",
  "ff_set_edge_group_policy",
]);
const MARKER = "sluice_revision";
const MARKER_DESCRIPTION = /\brevision (\d{1,9}), (11|14) KEYS$/;

/**
 * Identifies a library by its functions, given as name and description. `sluice_revision` marks Sluice's. A library
 * without it is release 0.1's if that release has all its functions, and another vendor's otherwise.
 */
function identifyLibrary(functions: ReadonlyMap<string, string>): SluiceLibrary | "foreign" {
  const description = functions.get(MARKER);
  if (description !== undefined) {
    const [, revision, edition] = MARKER_DESCRIPTION.exec(description) ?? [];
    if (revision === undefined) {
      throw new ProtocolError(`${MARKER} has the unknown description ${JSON.stringify(description)}`);
    }
    return { edition: edition === "11" ? 11 : 14, revision: Number(revision) };
  }
  const names = [...functions.keys()];
  if (names.some((name) => !RELEASE_0_1_FUNCTIONS.has(name))) return "foreign";
  return { edition: names.includes("ff_set_edge_group_policy") ? 14 : 11, revision: 0 };
}

/** Rejects with a ValkeyError, or with a ProtocolError if the reply of FUNCTION LIST is malformed. */
export async function fetchLibrary(node: Pick<ValkeyNode, "call">): Promise<LoadedLibrary> {
  const reply = await node.call("function", "LIST", "LIBRARYNAME", LIBRARY_NAME);
  if (!Array.isArray(reply)) throw new ProtocolError("the reply of FUNCTION LIST is not an array");
  const listed: readonly unknown[] = reply;
  for (const entry of listed) {
    const library = fieldsOf(entry);
    const functions = library.get("functions");
    // LIBRARYNAME is a pattern: make sure that the name is equal.
    if (library.get("library_name") !== LIBRARY_NAME) continue;
    if (!Array.isArray(functions))
      throw new ProtocolError("FUNCTION LIST returned a library without functions");
    return identifyLibrary(
      new Map(
        functions.map((one: unknown) => {
          const fields = fieldsOf(one);
          return [String(fields.get("name")), String(fields.get("description") ?? "")] as const;
        }),
      ),
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

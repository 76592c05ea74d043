/**
 * Identifiers of the wire contract (section 1), as branded types that only a parser creates.
 *
 * `parseFlowId` returns a flow id in canonical form, lower case, since FlowFabric builds keys from that form (contract,
 * section 1). All other ids keep their exact spelling: they are read from Valkey, where another spelling would name
 * other keys.
 */

declare const brand: unique symbol;
type Branded<Base, Name extends string> = Base & { readonly [brand]: Name };

/** `{fp:N}:<uuid>`; the braces are part of the id. */
export type ExecutionId = Branded<string, "ExecutionId">;
/** A UUID. */
export type FlowId = Branded<string, "FlowId">;
/** A UUID. */
export type EdgeId = Branded<string, "EdgeId">;
/** 1 to 64 bytes of printable ASCII. */
export type LaneId = Branded<string, "LaneId">;
/** An unsigned 32-bit integer. */
export type AttemptIndex = Branded<number, "AttemptIndex">;
/** An unsigned 16-bit integer: the N of the hash tag `{fp:N}`. */
export type Partition = Branded<number, "Partition">;

/** Which rule of its form an identifier breaks. */
export type IdErrorReason =
  | "missing_partition_tag"
  | "invalid_partition"
  | "invalid_uuid"
  | "invalid_lane"
  | "invalid_attempt_index";

/** Why a text is not a valid identifier. */
export interface IdError {
  readonly reason: IdErrorReason;
  /** Human-readable: what was expected and what was found. */
  readonly message: string;
}

/** A valid identifier, or why a text is none. */
export type Parsed<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly error: IdError };

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const DECIMAL = /^(?:0|[1-9][0-9]*)$/;
const LANE = /^[\x20-\x7e]{1,64}$/;
const TAG_START = "{fp:";
const TAG_END = "}:";
const MAX_PARTITION = 65_535;
const MAX_ATTEMPT_INDEX = 4_294_967_295;
const QUOTED_LENGTH = 100;

function valid<T>(value: unknown): Parsed<T> {
  return { ok: true, value: value as T };
}

function invalid(reason: IdErrorReason, expected: string, found: unknown): Parsed<never> {
  return { ok: false, error: { reason, message: `expected ${expected}, found ${quote(found)}` } };
}

function quote(found: unknown): string {
  if (typeof found !== "string") return found === null ? "null" : `a value of type ${typeof found}`;
  return JSON.stringify(found.length > QUOTED_LENGTH ? `${found.slice(0, QUOTED_LENGTH)}…` : found);
}

/**
 * Parses `{fp:N}:<uuid>`. N may exceed the configured partition count: ids outlive configurations.
 * Fails with `missing_partition_tag`, `invalid_partition` (not a decimal u16) or `invalid_uuid`.
 *
 * @example
 * parseExecutionId("{fp:42}:550e8400-e29b-41d4-a716-446655440000"); // { ok: true, value: "{fp:42}:550e…" }
 * parseExecutionId("550e8400"); // { ok: false, error: { reason: "missing_partition_tag", … } }
 */
export function parseExecutionId(text: unknown): Parsed<ExecutionId> {
  if (typeof text !== "string" || !text.startsWith(TAG_START) || !text.includes(TAG_END)) {
    return invalid("missing_partition_tag", "an execution id like {fp:N}:<uuid>", text);
  }
  const end = text.indexOf(TAG_END);
  const partition = text.slice(TAG_START.length, end);
  if (!DECIMAL.test(partition) || Number(partition) > MAX_PARTITION) {
    return invalid("invalid_partition", `an execution id whose partition is 0 to ${MAX_PARTITION}`, text);
  }
  if (!UUID.test(text.slice(end + TAG_END.length))) {
    return invalid("invalid_uuid", "an execution id that ends in a UUID", text);
  }
  return valid(text);
}

/**
 * Parses a flow id from a message, a request or an application: a hyphenated UUID in any case. The result is in lower
 * case, the form in which FlowFabric builds keys.
 *
 * @example
 * parseFlowId(request.params.flow); // { ok: true, value: "550e8400-e29b-41d4-a716-446655440000" }
 */
export function parseFlowId(text: unknown): Parsed<FlowId> {
  const stored = parseStoredFlowId(text);
  return stored.ok ? valid(stored.value.toLowerCase()) : stored;
}

/** Parses the flow id in a record, and keeps its case: release 0.1 built keys from flow ids as they were spelled. */
export function parseStoredFlowId(text: unknown): Parsed<FlowId> {
  return typeof text === "string" && UUID.test(text)
    ? valid(text)
    : invalid("invalid_uuid", "a flow id (a UUID)", text);
}

/** Parses an edge id: a hyphenated UUID in upper or lower case. */
export function parseEdgeId(text: unknown): Parsed<EdgeId> {
  return typeof text === "string" && UUID.test(text)
    ? valid(text)
    : invalid("invalid_uuid", "an edge id (a UUID)", text);
}

/**
 * Parses a lane: 1 to 64 bytes of printable ASCII (0x20 to 0x7e).
 *
 * @example
 * parseLaneId("images"); // { ok: true, value: "images" }
 */
export function parseLaneId(text: unknown): Parsed<LaneId> {
  return typeof text === "string" && LANE.test(text)
    ? valid(text)
    : invalid("invalid_lane", "a lane of 1 to 64 printable ASCII characters", text);
}

/** Parses a record's attempt index. Null, undefined and the empty string mean 0. */
export function parseAttemptIndex(text: unknown): Parsed<AttemptIndex> {
  if (text === null || text === undefined || text === "") return valid(0);
  return typeof text === "string" && DECIMAL.test(text) && Number(text) <= MAX_ATTEMPT_INDEX
    ? valid(Number(text))
    : invalid("invalid_attempt_index", "an attempt index (a 32-bit unsigned integer)", text);
}

/** Returns the partition in the hash tag of an execution id. */
export function partitionOf(id: ExecutionId): Partition {
  return Number(id.slice(TAG_START.length, id.indexOf(TAG_END))) as Partition;
}

/** Creates a new execution id from a partition and a UUID. Fails like `parseExecutionId`. */
export function mintExecutionId(partition: Partition, uuid: string): Parsed<ExecutionId> {
  return parseExecutionId(`${TAG_START}${partition}${TAG_END}${uuid}`);
}

/**
 * Returns the parsed value, or throws a TypeError with the parser's message. Use it only for ids that the program itself
 * created: handle the error of an id that comes from outside.
 *
 * @example
 * const flowId = unwrap(parseFlowId(randomUUID()));
 */
export function unwrap<T>(parsed: Parsed<T>): T {
  if (parsed.ok) return parsed.value;
  throw new TypeError(parsed.error.message);
}

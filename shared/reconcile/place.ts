/**
 * Where a sweep stands. A sweep goes through the indexes of blocked executions in one order, lane by lane and
 * partition by partition, and has several of them open at once. Its place is therefore the last index that was
 * opened, the open ones, each with its cursor, and those that could not be read.
 */

import { type LaneId, type Partition, parseLaneId } from "#shared/contract/ids.ts";

/** One index of blocked executions, and how far it is dealt with: a cursor of ZSCAN, "0" at its beginning. */
export interface Unit {
  readonly lane: LaneId;
  readonly partition: Partition;
  readonly cursor: string;
}

export interface Place {
  /** By the server's clock, in milliseconds since the epoch. */
  readonly startedAtMs: number;
  /** The last index that was opened; undefined: none was. */
  readonly last: Omit<Unit, "cursor"> | undefined;
  readonly open: readonly Unit[];
  /** Could not be read or dealt with. They are looked at once more before the sweep ends. */
  readonly failed: readonly Unit[];
  /** Whether that second look has begun. */
  readonly isSecondLook: boolean;
}

/** What is swept. */
export interface Scope {
  readonly lanes: readonly LaneId[];
  /** All of the deployment's, in order. */
  readonly partitions: readonly Partition[];
}

export const START = "0";
const CURSOR = /^\d{1,20}$/;

export function beginning(startedAtMs: number): Place {
  return { startedAtMs, last: undefined, open: [], failed: [], isSecondLook: false };
}

/** The indexes of a scope behind a place, in the order of a sweep. */
function* unitsOf({ lanes, partitions }: Scope, last?: Place["last"]): Generator<Unit> {
  for (const lane of lanes.toSorted()) {
    if (last !== undefined && lane < last.lane) continue;
    for (const partition of partitions) {
      if (last?.lane === lane && partition <= last.partition) continue;
      yield { lane, partition, cursor: START };
    }
  }
}

/** A sweep's way through its scope, from a place on. */
export class Progress {
  readonly startedAtMs: number;
  readonly #ahead: Iterator<Unit>;
  #last: Place["last"];
  #open: Set<Unit>;
  #failed: Set<Unit>;
  #isSecondLook: boolean;

  constructor(scope: Scope, place: Place) {
    this.startedAtMs = place.startedAtMs;
    this.#ahead = unitsOf(scope, place.last);
    this.#last = place.last;
    this.#open = new Set(place.open);
    this.#failed = new Set(place.failed);
    this.#isSecondLook = place.isSecondLook;
  }

  /** The indexes to read next, up to `limit` of them. None: the sweep is over. */
  next(limit: number): Unit[] {
    while (this.#open.size < limit) {
      const next = this.#ahead.next();
      if (next.done) break;
      const { lane, partition } = next.value;
      this.#last = { lane, partition };
      this.#open.add(next.value);
    }
    if (this.#open.size === 0 && !this.#isSecondLook) {
      this.#isSecondLook = true;
      this.#open = this.#failed;
      this.#failed = new Set();
    }
    return [...this.#open].slice(0, limit);
  }

  /** All that was read of an index is dealt with; it goes on at the cursor. */
  advance(unit: Unit, cursor: string): void {
    this.#open.delete(unit);
    if (cursor !== START) this.#open.add({ ...unit, cursor });
  }

  /** An index could not be read, or something in it not dealt with: it stays where it is, and the others go on. */
  fail(unit: Unit): void {
    this.#open.delete(unit);
    this.#failed.add(unit);
  }

  get place(): Place {
    return {
      startedAtMs: this.startedAtMs,
      last: this.#last,
      open: [...this.#open],
      failed: [...this.#failed],
      isSecondLook: this.#isSecondLook,
    };
  }
}

export function formatPlace({ startedAtMs, last, open, failed, isSecondLook }: Place): string {
  return JSON.stringify({
    started_at: startedAtMs,
    last: last === undefined ? null : [last.lane, last.partition, START],
    open: open.map(({ lane, partition, cursor }) => [lane, partition, cursor]),
    failed: failed.map(({ lane, partition, cursor }) => [lane, partition, cursor]),
    second_look: isSecondLook,
  });
}

/** Reads what `formatPlace` wrote; undefined where it is something else. */
export function parsePlace(text: string, partitions: readonly Partition[]): Place | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (!isRecord(value)) return undefined;
  const { started_at: startedAtMs, last, second_look: isSecondLook } = value;
  const known = new Map<unknown, Partition>(partitions.map((partition) => [partition, partition]));
  const open = parseUnits(value.open, known);
  const failed = parseUnits(value.failed, known);
  const lastUnit = last === null ? undefined : parseUnit(last, known);
  if (typeof startedAtMs !== "number" || typeof isSecondLook !== "boolean") return undefined;
  if (open === undefined || failed === undefined || (last !== null && lastUnit === undefined)) {
    return undefined;
  }
  const opened = lastUnit && { lane: lastUnit.lane, partition: lastUnit.partition };
  return { startedAtMs, last: opened, open, failed, isSecondLook };
}

function parseUnits(value: unknown, known: ReadonlyMap<unknown, Partition>): Unit[] | undefined {
  if (!Array.isArray(value)) return undefined;
  const units = value.map((one: unknown) => parseUnit(one, known));
  const parsed = units.filter((unit) => unit !== undefined);
  return parsed.length === units.length ? parsed : undefined;
}

function parseUnit(value: unknown, known: ReadonlyMap<unknown, Partition>): Unit | undefined {
  if (!Array.isArray(value)) return undefined;
  const [laneText, number, cursor]: readonly unknown[] = value;
  const lane = parseLaneId(laneText);
  const partition = known.get(number);
  if (!lane.ok || partition === undefined || typeof cursor !== "string" || !CURSOR.test(cursor)) {
    return undefined;
  }
  return { lane: lane.value, partition, cursor };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

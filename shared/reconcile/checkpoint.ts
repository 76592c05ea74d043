/**
 * The checkpoint of a task's sweep: what a run saves so that the next run can resume the sweep.
 *
 * A sweep reads the indexes of its task in a fixed order, by family, lane and partition, and has several indexes open at
 * once. The checkpoint therefore holds the last index that was opened, the open indexes with their cursors, and the
 * indexes that failed.
 */

import { type LaneId, type Partition, parseLaneId } from "#shared/contract/ids.ts";
import { type IndexFamily, type IndexPosition, START_CURSOR } from "#shared/reconcile/indexes.ts";
import { isTaskName, type TaskName } from "#shared/reconcile/task-names.ts";

export interface Checkpoint {
  /** When the sweep began: milliseconds since the epoch, by the server's clock. */
  readonly startedAtMs: number;
  /** The last index that was opened; undefined before the first one. */
  readonly lastOpened: Omit<IndexPosition, "cursor"> | undefined;
  readonly open: readonly IndexPosition[];
  /** Indexes that could not be read or processed. The sweep retries each of them once before it ends. */
  readonly failed: readonly IndexPosition[];
  /** True once the sweep has begun to retry the failed indexes. */
  readonly isRetrying: boolean;
}

/** The indexes that a sweep covers. */
export interface SweepScope {
  readonly families: readonly IndexFamily[];
  readonly lanes: readonly LaneId[];
  /** All partitions of the deployment, in ascending order. */
  readonly partitions: readonly Partition[];
}

const CURSOR = /^[\w.+-]{1,60}$/;

/** The checkpoint of a sweep that has not read anything yet. */
export function newSweep(startedAtMs: number): Checkpoint {
  return { startedAtMs, lastOpened: undefined, open: [], failed: [], isRetrying: false };
}

/** The indexes of a scope in sweep order, starting after `last`. */
function* indexesAfter(
  last: Checkpoint["lastOpened"],
  { families, lanes, partitions }: SweepScope,
): Generator<IndexPosition> {
  const lastFamily = last === undefined ? -1 : families.indexOf(last.family);
  for (const [position, family] of families.entries()) {
    if (position < lastFamily) continue;
    const lastOfFamily = position === lastFamily ? last : undefined;
    for (const lane of family.isPerLane ? lanes.toSorted() : [undefined]) {
      if (family.isPerLane && lane !== undefined && family.hasLane?.(lane) === false) continue;
      if (lane !== undefined && lastOfFamily?.lane !== undefined && lane < lastOfFamily.lane) continue;
      for (const partition of partitions) {
        if (lastOfFamily?.lane === lane && lastOfFamily && partition <= lastOfFamily.partition) continue;
        yield { family, lane, partition, cursor: START_CURSOR };
      }
    }
  }
}

/** Tracks which indexes a sweep has processed, starting from a checkpoint. */
export class SweepProgress {
  readonly startedAtMs: number;
  readonly #unopened: Iterator<IndexPosition>;
  #lastOpened: Checkpoint["lastOpened"];
  #open: Set<IndexPosition>;
  #failed: Set<IndexPosition>;
  #isRetrying: boolean;

  constructor(scope: SweepScope, checkpoint: Checkpoint) {
    this.startedAtMs = checkpoint.startedAtMs;
    this.#unopened = indexesAfter(checkpoint.lastOpened, scope);
    this.#lastOpened = checkpoint.lastOpened;
    this.#open = new Set(checkpoint.open);
    this.#failed = new Set(checkpoint.failed);
    this.#isRetrying = checkpoint.isRetrying;
  }

  get isRetrying(): boolean {
    return this.#isRetrying;
  }

  /** Indexes that could not be read or processed, so far. */
  get failures(): number {
    return this.#failed.size;
  }

  /** The indexes to read next, at most `limit`. An empty list means that the sweep is over. */
  next(limit: number): IndexPosition[] {
    while (this.#open.size < limit) {
      const next = this.#unopened.next();
      if (next.done) break;
      const { family, lane, partition } = next.value;
      this.#lastOpened = { family, lane, partition };
      this.#open.add(next.value);
    }
    if (this.#open.size === 0 && !this.#isRetrying) {
      this.#isRetrying = true;
      this.#open = this.#failed;
      this.#failed = new Set();
    }
    return [...this.#open].slice(0, limit);
  }

  /** Records that the page of an index was processed. The next page starts at `cursor`; `START_CURSOR`: it was the last. */
  advance(index: IndexPosition, cursor: string): void {
    this.#open.delete(index);
    if (cursor !== START_CURSOR) this.#open.add({ ...index, cursor });
  }

  /** Records that the page of an index could not be read or processed. Its cursor stays where it is. */
  fail(index: IndexPosition): void {
    this.#open.delete(index);
    this.#failed.add(index);
  }

  get checkpoint(): Checkpoint {
    return {
      startedAtMs: this.startedAtMs,
      lastOpened: this.#lastOpened,
      open: [...this.#open],
      failed: [...this.#failed],
      isRetrying: this.#isRetrying,
    };
  }
}

/** The checkpoints of the tasks whose sweep is not over. A task that has none begins a new sweep. */
export type Checkpoints = ReadonlyMap<TaskName, Checkpoint>;

/** Returns the empty text if there is no checkpoint. */
export function formatCheckpoints(checkpoints: Checkpoints): string {
  if (checkpoints.size === 0) return "";
  return JSON.stringify(
    Object.fromEntries([...checkpoints].map(([task, checkpoint]) => [task, toJson(checkpoint)])),
  );
}

function toJson({ startedAtMs, lastOpened, open, failed, isRetrying }: Checkpoint): unknown {
  const indexToJson = ({ family, lane, partition, cursor }: IndexPosition) => [
    family.name,
    lane ?? null,
    partition,
    cursor,
  ];
  return {
    started_at: startedAtMs,
    last: lastOpened === undefined ? null : indexToJson({ ...lastOpened, cursor: START_CURSOR }),
    open: open.map(indexToJson),
    failed: failed.map(indexToJson),
    second_look: isRetrying,
  };
}

/** What a checkpoint may refer to. */
export interface KnownIndexes {
  readonly tasks: readonly { readonly name: TaskName; readonly families: readonly IndexFamily[] }[];
  readonly partitions: readonly Partition[];
}

/**
 * Parses the output of `formatCheckpoints`. Tasks that do not run any more are left out. Returns undefined for anything
 * else.
 */
export function parseCheckpoints(text: string, { tasks, partitions }: KnownIndexes): Checkpoints | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (!isRecord(value) || Array.isArray(value)) return undefined;
  const known = new Map<unknown, Partition>(partitions.map((partition) => [partition, partition]));
  const checkpoints = new Map<TaskName, Checkpoint>();
  for (const { name, families } of tasks) {
    if (value[name] === undefined) continue;
    const checkpoint = parseCheckpoint(value[name], families, known);
    if (checkpoint === undefined) return undefined;
    checkpoints.set(name, checkpoint);
  }
  // A checkpoint of no known task at all is of another kind.
  return checkpoints.size === 0 && !Object.keys(value).some(isTaskName) ? undefined : checkpoints;
}

type KnownPartitions = ReadonlyMap<unknown, Partition>;

function parseCheckpoint(
  value: unknown,
  families: readonly IndexFamily[],
  partitions: KnownPartitions,
): Checkpoint | undefined {
  if (!isRecord(value)) return undefined;
  const { started_at: startedAtMs, last, second_look: isRetrying } = value;
  const open = parseIndexes(value.open, families, partitions);
  const failed = parseIndexes(value.failed, families, partitions);
  const lastOpened = last === null ? undefined : parseIndex(last, families, partitions);
  if (typeof startedAtMs !== "number" || typeof isRetrying !== "boolean") return undefined;
  if (open === undefined || failed === undefined || (last !== null && lastOpened === undefined)) {
    return undefined;
  }
  return { startedAtMs, lastOpened: lastOpened && withoutCursor(lastOpened), open, failed, isRetrying };
}

function withoutCursor({ family, lane, partition }: IndexPosition): Checkpoint["lastOpened"] {
  return { family, lane, partition };
}

function parseIndexes(
  value: unknown,
  families: readonly IndexFamily[],
  partitions: KnownPartitions,
): IndexPosition[] | undefined {
  if (!Array.isArray(value)) return undefined;
  const indexes = value.map((item: unknown) => parseIndex(item, families, partitions));
  const valid = indexes.filter((index) => index !== undefined);
  return valid.length === indexes.length ? valid : undefined;
}

function parseIndex(
  value: unknown,
  families: readonly IndexFamily[],
  partitions: KnownPartitions,
): IndexPosition | undefined {
  if (!Array.isArray(value)) return undefined;
  const [name, laneText, number, cursor]: readonly unknown[] = value;
  const family = families.find((one) => one.name === name);
  const partition = partitions.get(number);
  if (family === undefined || partition === undefined) return undefined;
  if (typeof cursor !== "string" || !CURSOR.test(cursor)) return undefined;
  if (!family.isPerLane)
    return laneText === null ? { family, lane: undefined, partition, cursor } : undefined;
  const lane = parseLaneId(laneText);
  return lane.ok ? { family, lane: lane.value, partition, cursor } : undefined;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

/**
 * The checkpoint of a sweep: what a run saves so that the next run can resume the sweep.
 *
 * A sweep reads the indexes of blocked executions in a fixed order, by lane and then by partition, and has several
 * indexes open at once. The checkpoint therefore holds the last index that was opened, the open indexes with their
 * cursors, and the indexes that failed.
 */

import { type LaneId, type Partition, parseLaneId } from "#shared/contract/ids.ts";

/** The index of blocked executions of one lane in one partition, and how far the sweep has processed it. */
export interface LaneIndex {
  readonly lane: LaneId;
  readonly partition: Partition;
  /** A ZSCAN cursor; "0" before the first page. */
  readonly cursor: string;
}

export interface Checkpoint {
  /** When the sweep began: milliseconds since the epoch, by the server's clock. */
  readonly startedAtMs: number;
  /** The last index that was opened; undefined before the first one. */
  readonly lastOpened: Omit<LaneIndex, "cursor"> | undefined;
  readonly open: readonly LaneIndex[];
  /** Indexes that could not be read or processed. The sweep retries each of them once before it ends. */
  readonly failed: readonly LaneIndex[];
  /** True once the sweep has begun to retry the failed indexes. */
  readonly isRetrying: boolean;
}

/** The lanes and partitions that a sweep covers. */
export interface SweepScope {
  readonly lanes: readonly LaneId[];
  /** All partitions of the deployment, in ascending order. */
  readonly partitions: readonly Partition[];
}

export const START_CURSOR = "0";
const CURSOR = /^\d{1,20}$/;

/** The checkpoint of a sweep that has not read anything yet. */
export function newSweep(startedAtMs: number): Checkpoint {
  return { startedAtMs, lastOpened: undefined, open: [], failed: [], isRetrying: false };
}

/** The indexes of a scope in sweep order, starting after `lastOpened`. */
function* indexesAfter(
  lastOpened: Checkpoint["lastOpened"],
  { lanes, partitions }: SweepScope,
): Generator<LaneIndex> {
  for (const lane of lanes.toSorted()) {
    if (lastOpened !== undefined && lane < lastOpened.lane) continue;
    for (const partition of partitions) {
      if (lastOpened?.lane === lane && partition <= lastOpened.partition) continue;
      yield { lane, partition, cursor: START_CURSOR };
    }
  }
}

/** Tracks which indexes a sweep has processed, starting from a checkpoint. */
export class SweepProgress {
  readonly startedAtMs: number;
  readonly #unopened: Iterator<LaneIndex>;
  #lastOpened: Checkpoint["lastOpened"];
  #open: Set<LaneIndex>;
  #failed: Set<LaneIndex>;
  #isRetrying: boolean;

  constructor(scope: SweepScope, checkpoint: Checkpoint) {
    this.startedAtMs = checkpoint.startedAtMs;
    this.#unopened = indexesAfter(checkpoint.lastOpened, scope);
    this.#lastOpened = checkpoint.lastOpened;
    this.#open = new Set(checkpoint.open);
    this.#failed = new Set(checkpoint.failed);
    this.#isRetrying = checkpoint.isRetrying;
  }

  /** The indexes to read next, at most `limit`. An empty list means that the sweep is over. */
  next(limit: number): LaneIndex[] {
    while (this.#open.size < limit) {
      const next = this.#unopened.next();
      if (next.done) break;
      const { lane, partition } = next.value;
      this.#lastOpened = { lane, partition };
      this.#open.add(next.value);
    }
    if (this.#open.size === 0 && !this.#isRetrying) {
      this.#isRetrying = true;
      this.#open = this.#failed;
      this.#failed = new Set();
    }
    return [...this.#open].slice(0, limit);
  }

  /** Records that the page of an index was processed. The next page starts at `cursor`. */
  advance(index: LaneIndex, cursor: string): void {
    this.#open.delete(index);
    if (cursor !== START_CURSOR) this.#open.add({ ...index, cursor });
  }

  /** Records that the page of an index could not be read or processed. Its cursor stays where it is. */
  fail(index: LaneIndex): void {
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

export function formatCheckpoint(checkpoint: Checkpoint): string {
  const { startedAtMs, lastOpened, open, failed, isRetrying } = checkpoint;
  return JSON.stringify({
    started_at: startedAtMs,
    last: lastOpened === undefined ? null : [lastOpened.lane, lastOpened.partition, START_CURSOR],
    open: open.map(({ lane, partition, cursor }) => [lane, partition, cursor]),
    failed: failed.map(({ lane, partition, cursor }) => [lane, partition, cursor]),
    second_look: isRetrying,
  });
}

/** Parses the output of `formatCheckpoint`. Returns undefined for anything else. */
export function parseCheckpoint(text: string, partitions: readonly Partition[]): Checkpoint | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (!isRecord(value)) return undefined;
  const { started_at: startedAtMs, last, second_look: isRetrying } = value;
  const known = new Map<unknown, Partition>(partitions.map((partition) => [partition, partition]));
  const open = parseIndexes(value.open, known);
  const failed = parseIndexes(value.failed, known);
  const lastIndex = last === null ? undefined : parseIndex(last, known);
  if (typeof startedAtMs !== "number" || typeof isRetrying !== "boolean") return undefined;
  if (open === undefined || failed === undefined || (last !== null && lastIndex === undefined)) {
    return undefined;
  }
  const lastOpened = lastIndex && { lane: lastIndex.lane, partition: lastIndex.partition };
  return { startedAtMs, lastOpened, open, failed, isRetrying };
}

function parseIndexes(value: unknown, known: ReadonlyMap<unknown, Partition>): LaneIndex[] | undefined {
  if (!Array.isArray(value)) return undefined;
  const indexes = value.map((item: unknown) => parseIndex(item, known));
  const valid = indexes.filter((index) => index !== undefined);
  return valid.length === indexes.length ? valid : undefined;
}

function parseIndex(value: unknown, known: ReadonlyMap<unknown, Partition>): LaneIndex | undefined {
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

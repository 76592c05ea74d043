/** The indexes that tasks read, their positions in a sweep, and their entries. */

import type { LaneId, Partition } from "#shared/contract/ids.ts";
import type { IndexKeys, LaneKeys } from "#shared/contract/keys.ts";

/**
 * An index of which each partition has one, or each lane of each partition.
 *
 * - `due`: a zset whose scores are times. The entries up to the server's time are read, the lowest score first.
 * - `zset`, `set`: all entries are read, in the server's order (`ZSCAN`, `SSCAN`).
 */
export type IndexFamily = {
  /** Names the family in checkpoints and logs; unique within its task. */
  readonly name: string;
  readonly paging: "due" | "zset" | "set";
  /** Entries are due so many milliseconds after their score; 0 unless given. */
  readonly dueAfterMs?: number;
} & (
  | {
      readonly isPerLane: true;
      readonly keyOf: (keys: LaneKeys) => string;
      /** The lanes whose indexes are read; all unless given. */
      readonly hasLane?: (lane: LaneId) => boolean;
    }
  | { readonly isPerLane: false; readonly keyOf: (keys: IndexKeys) => string }
);

export const START_CURSOR = "0";

/** One index, and how far the sweep has processed it. */
export interface IndexPosition {
  readonly family: IndexFamily;
  /** Undefined if the family has one index for each partition. */
  readonly lane: LaneId | undefined;
  readonly partition: Partition;
  /** Opaque, except that `START_CURSOR` stands before the first page. */
  readonly cursor: string;
}

/** One entry of an index. */
export interface IndexEntry {
  /** The page's position, shared by all entries of the page. */
  readonly index: IndexPosition;
  readonly member: string;
  /** NaN for an entry of a set. */
  readonly score: number;
}

/** Reads indexes page by page. */

import { command, type Pipelines, type ValkeyCommand, type ValkeyResult } from "#shared/contract/command.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText } from "#shared/contract/record.ts";
import { ProtocolError } from "#shared/errors.ts";
import { type IndexEntry, type IndexPosition, START_CURSOR } from "#shared/reconcile/indexes.ts";
import { type Outcome, pipelineEach } from "#shared/reconcile/outcome.ts";

/** COUNT of a scan. Valkey returns a small index whole, whatever the COUNT. */
const SCAN_COUNT = 100;
/** Entries of a page of due entries: few if many indexes are read together, which limits the memory. */
const MIN_DUE_COUNT = 100;
const MAX_DUE_COUNT = 2_000;
const DUE_ENTRIES_PER_READ = 20_000;

export interface PagingPorts {
  readonly valkey: Pipelines;
  readonly router: PartitionRouter;
}

export interface ReadPage {
  readonly ok: true;
  readonly index: IndexPosition;
  readonly entries: readonly IndexEntry[];
  /** Where the next page starts, for a scan; undefined for a page of due entries. */
  readonly scanCursor: string | undefined;
  /** Whether no entry is known to follow a page of due entries. */
  readonly isLast: boolean;
}

/** One page of an index, or the reason why it could not be read. */
export type IndexPage =
  | ReadPage
  | { readonly ok: false; readonly index: IndexPosition; readonly error: Error };

/**
 * Reads the next page of each index in one round trip. Returns one page per index, in their order. Entries with scores up
 * to `nowMs` (milliseconds since the epoch) are due.
 */
export async function readPages(
  { valkey, router }: PagingPorts,
  indexes: readonly IndexPosition[],
  nowMs: number,
): Promise<IndexPage[]> {
  const dueIndexes = indexes.filter(({ family }) => family.paging === "due").length;
  const share = Math.floor(DUE_ENTRIES_PER_READ / Math.max(1, dueIndexes));
  const count = Math.min(MAX_DUE_COUNT, Math.max(MIN_DUE_COUNT, share));
  const results = await pipelineEach(valkey, indexes, (index) => readCommand(router, index, nowMs, count));
  return results.map(({ item, result }) => pageOf(item, result, count));
}

function readCommand(
  router: PartitionRouter,
  index: IndexPosition,
  nowMs: number,
  count: number,
): ValkeyCommand {
  const { partition, family, cursor } = index;
  const key = keyOf(router, index);
  if (family.paging === "set") return command(partition, "sscan", key, cursor, "COUNT", SCAN_COUNT);
  if (family.paging === "zset") return command(partition, "zscan", key, cursor, "COUNT", SCAN_COUNT);
  const { score, skip } = parseDueCursor(cursor);
  const last = nowMs - (family.dueAfterMs ?? 0);
  return command(partition, "zrangebyscore", key, score, last, "WITHSCORES", "LIMIT", skip, count);
}

/** The key of an index. */
function keyOf(router: PartitionRouter, { family, lane, partition }: IndexPosition): string {
  const keys = router.indexKeys(partition);
  if (!family.isPerLane) return family.keyOf(keys);
  if (lane === undefined) throw new TypeError(`an index of ${family.name} without a lane`);
  return family.keyOf(keys.lane(lane));
}

function pageOf(index: IndexPosition, result: ValkeyResult, count: number): IndexPage {
  if (!result.ok) return { ok: false, index, error: result.error };
  const { paging } = index.family;
  const reply: readonly unknown[] = Array.isArray(result.value) ? result.value : [];
  const [cursor, listed] = paging === "due" ? [undefined, result.value] : reply;
  if (!Array.isArray(listed) || (paging !== "due" && typeof cursor !== "string")) {
    return { ok: false, index, error: new ProtocolError(`reading ${index.family.name}: malformed reply`) };
  }
  const texts = listed.map(fieldText);
  const members = paging === "set" ? texts : texts.filter((_, position) => position % 2 === 0);
  const entries = members.map((member, position): IndexEntry => {
    const score = paging === "set" ? Number.NaN : parseScore(texts[2 * position + 1]);
    return { index, member, score };
  });
  return {
    ok: true,
    index,
    entries: paging === "due" ? entries : distinct(entries),
    scanCursor: typeof cursor === "string" ? cursor : undefined,
    isLast: entries.length < count,
  };
}

function parseScore(text = ""): number {
  return Number(text.replace("inf", "Infinity"));
}

/** A scan may return a member twice. */
function distinct(entries: readonly IndexEntry[]): IndexEntry[] {
  return [...new Map(entries.map((entry) => [entry.member, entry])).values()];
}

/**
 * Where the next page of an index starts, after all entries of a page were processed; `START_CURSOR` if it was the last.
 *
 * The cursor of due entries is a score and a number: so many entries with that score stay in the index and were seen.
 * Entries that leave the index therefore do not move the cursor, however many have the same score.
 */
export function nextCursor(
  { index, entries, scanCursor, isLast }: ReadPage,
  outcomes: readonly Outcome[],
): string {
  if (scanCursor !== undefined) return scanCursor;
  const unfinished = outcomes.findIndex((outcome) => outcome.ok && outcome.entry === "unfinished");
  if (unfinished === -1 && isLast) return START_CURSOR;
  // The next page begins with the first unfinished entry, if there is one.
  const last = entries[unfinished === -1 ? entries.length - 1 : unfinished];
  if (last === undefined) return START_CURSOR;
  const seen = entries.slice(0, unfinished === -1 ? entries.length : unfinished);
  const kept = seen.filter((entry, position) => {
    const outcome = outcomes[position];
    return entry.score === last.score && outcome?.ok === true && outcome.entry === "kept";
  });
  const before = parseDueCursor(index.cursor);
  const skip = kept.length + (Number(before.score) === last.score ? before.skip : 0);
  return `${last.score}+${skip}`;
}

function parseDueCursor(cursor: string): { readonly score: string; readonly skip: number } {
  const [, score, skip] = /^(.+)\+(\d+)$/.exec(cursor) ?? [];
  return score === undefined ? { score: "-inf", skip: 0 } : { score, skip: Number(skip) };
}

/** First pages of indexes that were read before it was known whether the sweep needs them. */
export class PrefetchedPages {
  readonly #pages: ReadonlyMap<string, IndexPage>;

  constructor(pages: readonly IndexPage[]) {
    this.#pages = new Map(pages.flatMap((page) => (page.ok ? [[indexName(page.index), page]] : [])));
  }

  /** Returns one page per index, in their order. Reads those that were not prefetched. */
  async read(ports: PagingPorts, indexes: readonly IndexPosition[], nowMs: number): Promise<IndexPage[]> {
    const missing = indexes.filter((index) => this.#find(index) === undefined);
    const read = await readPages(ports, missing, nowMs);
    const pages = new Map(read.map((page) => [page.index, page]));
    return indexes.map((index): IndexPage => {
      const page = pages.get(index) ?? this.#find(index);
      if (page === undefined) return { ok: false, index, error: new Error("no page was read") };
      return page.ok ? moved(page, index) : page;
    });
  }

  #find(index: IndexPosition): IndexPage | undefined {
    return index.cursor === START_CURSOR ? this.#pages.get(indexName(index)) : undefined;
  }
}

/** The page with another object for the same position: the sweep's own. */
function moved(page: ReadPage, index: IndexPosition): ReadPage {
  if (page.index === index) return page;
  return { ...page, index, entries: page.entries.map((entry) => ({ ...entry, index })) };
}

function indexName({ family, lane, partition }: IndexPosition): string {
  return `${family.name} ${partition} ${lane ?? ""}`;
}

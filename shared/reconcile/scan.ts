/** Reads the lanes in use and the indexes of blocked executions. */

import { command, type Pipelines, type ValkeyResult } from "#shared/contract/command.ts";
import { type LaneId, parseExecutionId, parseLaneId, partitionOf } from "#shared/contract/ids.ts";
import { type ExecKeys, LANES_KEY } from "#shared/contract/keys.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText } from "#shared/contract/record.ts";
import { ProtocolError } from "#shared/errors.ts";
import { type LaneIndex, START_CURSOR } from "#shared/reconcile/checkpoint.ts";
import type { CommandCaller } from "#shared/reconcile/lease.ts";
import { pipelineEach } from "#shared/reconcile/outcome.ts";
import type { SweepRun } from "#shared/reconcile/run.ts";

/** COUNT of ZSCAN. Valkey returns a small index whole, whatever the COUNT. */
const SCAN_COUNT = 100;

export interface RecordedLanes {
  readonly lanes: readonly LaneId[];
  /** One message for each recorded name that is not a valid lane. */
  readonly errors: readonly string[];
}

/** Reads the lanes that the deployment records as in use. Rejects with the error of the server or the client. */
export async function readRecordedLanes(valkey: CommandCaller): Promise<RecordedLanes> {
  const names = await valkey.call("smembers", LANES_KEY);
  if (!Array.isArray(names)) throw new ProtocolError(`SMEMBERS ${LANES_KEY} did not reply with an array`);
  const parsed = names.map(parseLaneId);
  return {
    lanes: parsed.flatMap((lane) => (lane.ok ? [lane.value] : [])),
    errors: parsed.flatMap((lane) => (lane.ok ? [] : [lane.error.message])),
  };
}

export interface ScanPorts {
  readonly valkey: Pipelines;
  readonly router: PartitionRouter;
}

/** One page of an index, or the reason why it could not be read. */
export type IndexPage =
  | {
      readonly ok: true;
      readonly index: LaneIndex;
      readonly members: readonly string[];
      /** Where the next page starts. */
      readonly cursor: string;
    }
  | { readonly ok: false; readonly index: LaneIndex; readonly error: Error };

export type ReadPage = Extract<IndexPage, { ok: true }>;

/** Reads the next page of each index in one round trip. Returns one page per index, in their order. */
export async function readPages(
  { valkey, router }: ScanPorts,
  indexes: readonly LaneIndex[],
): Promise<IndexPage[]> {
  const results = await pipelineEach(valkey, indexes, ({ lane, partition, cursor }) => {
    const { blockedDependencies } = router.indexKeys(partition).lane(lane);
    return command(partition, "zscan", blockedDependencies, cursor, "COUNT", SCAN_COUNT);
  });
  return results.map(({ item, result }) => pageOf(item, result));
}

function pageOf(index: LaneIndex, result: ValkeyResult): IndexPage {
  if (!result.ok) return { ok: false, index, error: result.error };
  const reply: readonly unknown[] = Array.isArray(result.value) ? result.value : [];
  const [cursor, entries] = reply;
  if (typeof cursor !== "string" || !Array.isArray(entries)) {
    return { ok: false, index, error: new ProtocolError("ZSCAN did not reply with a cursor and an array") };
  }
  // Members and scores alternate. ZSCAN may return a member twice.
  const members = entries.map(fieldText).filter((_, position) => position % 2 === 0);
  return { ok: true, index, members: [...new Set(members)], cursor };
}

/** First pages of indexes that were read before it was known whether the sweep needs them. */
export class PrefetchedPages {
  readonly #pages: ReadonlyMap<string, IndexPage>;

  constructor(pages: readonly IndexPage[]) {
    this.#pages = new Map(pages.flatMap((page) => (page.ok ? [[indexName(page.index), page]] : [])));
  }

  /** Returns one page per index, in their order. Reads those that were not prefetched. */
  async read(ports: ScanPorts, indexes: readonly LaneIndex[]): Promise<IndexPage[]> {
    const missing = indexes.filter((index) => this.#find(index) === undefined);
    const read = await readPages(ports, missing);
    const pages = new Map(read.map((page) => [page.index, page]));
    return indexes.map((index): IndexPage => {
      const page = pages.get(index) ?? this.#find(index);
      return page === undefined
        ? { ok: false, index, error: new Error("no page was read") }
        : { ...page, index };
    });
  }

  #find(index: LaneIndex): IndexPage | undefined {
    return index.cursor === START_CURSOR ? this.#pages.get(indexName(index)) : undefined;
  }
}

function indexName({ lane, partition }: LaneIndex): string {
  return `${partition} ${lane}`;
}

/** An execution that an index lists as blocked. */
export interface Candidate {
  readonly index: LaneIndex;
  readonly keys: ExecKeys;
}

/** The executions of a page. Entries that are not executions of the index's partition are reported and skipped. */
export function candidatesOf(run: SweepRun, { index, members }: ReadPage): Candidate[] {
  run.counts.scanned += members.length;
  return members.flatMap((member): Candidate[] => {
    const id = parseExecutionId(member);
    if (id.ok && partitionOf(id.value) === index.partition) {
      return [{ index, keys: run.ports.router.execKeys(id.value) }];
    }
    run.reportUnreadable("index entry skipped: not an execution of its partition", {
      lane: index.lane,
      partition: index.partition,
      reason: id.ok ? `${id.value} belongs to another partition` : id.error.message,
    });
    return [];
  });
}

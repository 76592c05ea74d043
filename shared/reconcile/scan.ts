/** What a sweep goes through: the lanes in use, and the executions that stand blocked in them. */

import { command, type Pipelines, type ValkeyResult } from "#shared/contract/command.ts";
import { type LaneId, parseExecutionId, parseLaneId, partitionOf } from "#shared/contract/ids.ts";
import { type ExecKeys, LANES_KEY } from "#shared/contract/keys.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText } from "#shared/contract/record.ts";
import { ProtocolError } from "#shared/errors.ts";
import type { Calls } from "#shared/reconcile/lease.ts";
import { START, type Unit } from "#shared/reconcile/place.ts";
import type { Run } from "#shared/reconcile/run.ts";

/** Members that one step of ZSCAN looks at. A small index comes whole, whatever this says. */
const SCAN_COUNT = 100;

export interface RecordedLanes {
  readonly lanes: readonly LaneId[];
  /** Why each name that is no lane's is left out. */
  readonly errors: readonly string[];
}

/** The lanes that the deployment records as in use. Rejects with what the server or the client raised. */
export async function readRecordedLanes(valkey: Calls): Promise<RecordedLanes> {
  const names = await valkey.call("smembers", LANES_KEY);
  if (!Array.isArray(names)) throw new ProtocolError(`SMEMBERS ${LANES_KEY} replied no array`);
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

/** Some of an index's members, or why they could not be read. */
export type Page =
  | {
      readonly ok: true;
      readonly unit: Unit;
      readonly members: readonly string[];
      /** Where the index goes on. */
      readonly cursor: string;
    }
  | { readonly ok: false; readonly unit: Unit; readonly error: Error };

/** Reads a page of every index, in one round trip. Pages are in the indexes' order. */
export async function readPages({ valkey, router }: ScanPorts, units: readonly Unit[]): Promise<Page[]> {
  const results = await valkey.pipelined(
    units.map(({ lane, partition, cursor }) => {
      const { blockedDependencies } = router.indexKeys(partition).lane(lane);
      return command(partition, "zscan", blockedDependencies, cursor, "COUNT", SCAN_COUNT);
    }),
  );
  return units.map((unit, position) => pageOf(unit, results[position]));
}

function pageOf(unit: Unit, result: ValkeyResult | undefined): Page {
  if (!result?.ok) return { ok: false, unit, error: result?.error ?? new Error("no result") };
  const reply: readonly unknown[] = Array.isArray(result.value) ? result.value : [];
  const [cursor, entries] = reply;
  if (typeof cursor !== "string" || !Array.isArray(entries)) {
    return { ok: false, unit, error: new ProtocolError("ZSCAN replied no page") };
  }
  // Members and scores by turns. A member may come twice.
  const members = entries.map(fieldText).filter((_, position) => position % 2 === 0);
  return { ok: true, unit, members: [...new Set(members)], cursor };
}

/** Pages that were read before it was known that they would be needed. */
export class PagesAhead {
  readonly #pages: ReadonlyMap<string, Page>;

  constructor(pages: readonly Page[]) {
    this.#pages = new Map(pages.flatMap((page) => (page.ok ? [[nameOf(page.unit), page]] : [])));
  }

  /** Reads what is not at hand. Pages are in the indexes' order. */
  async read(ports: ScanPorts, units: readonly Unit[]): Promise<Page[]> {
    const missing = units.filter((unit) => !this.#has(unit));
    const read = missing.length === 0 ? [] : await readPages(ports, missing);
    const pages = new Map(read.map((page) => [page.unit, page]));
    return units.map((unit): Page => {
      const page = pages.get(unit) ?? this.#pages.get(nameOf(unit));
      return page === undefined ? { ok: false, unit, error: new Error("no page") } : { ...page, unit };
    });
  }

  #has(unit: Unit): boolean {
    return unit.cursor === START && this.#pages.has(nameOf(unit));
  }
}

function nameOf({ lane, partition }: Unit): string {
  return `${partition} ${lane}`;
}

/** An execution that an index names, and the index. */
export interface Candidate {
  readonly unit: Unit;
  readonly keys: ExecKeys;
}

/** The executions of a page. What is no id, or one of another partition, is told of and left alone. */
export function candidatesOf(run: Run, { unit, members }: Extract<Page, { ok: true }>): Candidate[] {
  run.tally.scanned += members.length;
  return members.flatMap((member): Candidate[] => {
    const id = parseExecutionId(member);
    if (id.ok && partitionOf(id.value) === unit.partition) {
      return [{ unit, keys: run.ports.router.execKeys(id.value) }];
    }
    run.unreadable("an index of blocked executions has an entry that is no execution of its partition", {
      lane: unit.lane,
      partition: unit.partition,
      reason: id.ok ? `${id.value} is of another partition` : id.error.message,
    });
    return [];
  });
}

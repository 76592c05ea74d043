import { z } from "zod";
import {
  DEFAULT_UNCHANGED_MS,
  type FlowEntry,
  flowEntry,
  flowEntrySchema,
  flowRecordOf,
  readFlow,
} from "#operate/flows/flow-entry.ts";
import { tallyMembers } from "#operate/flows/members.ts";
import { countFlows, type ListedFlow, NewestFlows } from "#operate/flows/newest-flows.ts";
import { FLOW_STATES, type FlowFilter, NEWEST, type Place } from "#operate/flows/search-script.ts";
import { type OperateContext, readOperation } from "#operate/operation.ts";
import { readOfEach } from "#shared/consistency/read.ts";
import { parseStoredFlowId } from "#shared/contract/ids.ts";
import { serverTimeMs } from "#shared/valkey/server-time.ts";

const MAX_PAGE = 1_000;
/** A page ends after this time with fewer flows, and a cursor. Milliseconds. */
const MAX_PAGE_MS = 5_000;
/** Left for the answer. Milliseconds. */
const RESERVED_MS = 1_000;
/** Flows that are read at once. */
const BATCH = 100;
/** The place of the last flow, and `l` if `flows_created` lists all flows. */
const CURSOR = /^(\d{1,15})\.([0-9a-fA-F-]{36})(\.l)?$/;

const count = z.int().min(0);

/** Lists flows, the newest first. */
export const flows = readOperation({
  name: "flows",
  input: z
    .strictObject({
      state: z.enum(FLOW_STATES).optional(),
      stuck: z.boolean().default(false).describe("Only running flows that are stuck"),
      unchanged_ms: z
        .int()
        .min(1)
        .default(DEFAULT_UNCHANGED_MS)
        .describe("A running flow without a change for this time is stuck"),
      name: z
        .string()
        .max(1_000)
        .default("")
        .describe("A part of the workflow's name. The letters A to Z match in any case"),
      created_since: z.int().min(0).default(0).describe("Milliseconds since the epoch"),
      counts: z.boolean().default(true).describe("Count all flows with this name and time on the first page"),
      limit: z.int().min(1).max(MAX_PAGE).default(50),
      cursor: z
        .string()
        .regex(CURSOR, "is not a cursor of this command: use `next` of its last answer")
        .optional(),
    })
    .refine(({ state, stuck }) => !stuck || state === undefined || state === "running", {
      message: "only running flows can be stuck: leave out one of `state` and `stuck`",
    }),
  output: z.object({
    flows: z.array(flowEntrySchema),
    counts: z
      .object({
        running: count,
        completed: count,
        failed: count,
        cancelled: count,
        uncounted: count.describe("Flows whose library keeps no counts: their members tell the state"),
      })
      .optional()
      .describe("The flows with this name and time, whatever the page shows. Only on the first page"),
    next: z.string().optional().describe("The cursor of the next page. Missing on the last page"),
  }),
  async run(context, { state, stuck, unchanged_ms, name, created_since, counts: isCounted, limit, cursor }) {
    const filter: FlowFilter = {
      state: stuck ? "running" : state,
      name,
      createdSince: created_since,
    };
    const counts =
      isCounted && cursor === undefined
        ? await countFlows(
            context,
            { ...filter, state: undefined },
            NEWEST,
            () => Date.now() > context.deadlineMs - RESERVED_MS,
          )
        : undefined;
    const isWanted = ({ entry }: Listed): boolean =>
      (filter.state === undefined || entry.state === filter.state) && (!stuck || entry.stuck !== undefined);
    const page = await readPage(context, filter, startOf(cursor), {
      limit,
      // Only the members tell whether a flow is stuck, and few flows are.
      batch: stuck ? BATCH : Math.min(BATCH, limit),
      unchangedMs: unchanged_ms,
      isWanted,
    });
    return {
      flows: page.entries,
      ...(counts === undefined ? {} : { counts }),
      ...(page.after === undefined ? {} : { next: cursorOf(page.after, page.mayBeUnlisted) }),
    };
  },
});

/** Where a page begins. */
interface Start {
  readonly after: Place;
  readonly mayBeUnlisted: boolean;
}

function startOf(cursor: string | undefined): Start {
  const [, createdAt, id, listed] = CURSOR.exec(cursor ?? "") ?? [];
  if (createdAt === undefined || id === undefined) return { after: NEWEST, mayBeUnlisted: true };
  return { after: { createdAt: Number(createdAt), id }, mayBeUnlisted: listed === undefined };
}

function cursorOf({ createdAt, id }: Place, mayBeUnlisted: boolean): string {
  return `${createdAt}.${id}${mayBeUnlisted ? "" : ".l"}`;
}

/** An entry and its place in the list. */
interface Listed {
  readonly place: Place;
  readonly entry: FlowEntry;
}

interface PageOptions {
  readonly limit: number;
  /** Flows that are read at once. */
  readonly batch: number;
  readonly unchangedMs: number;
  isWanted(listed: Listed): boolean;
}

/** Reads flows until the page is full, the list ends or the time is up. */
async function readPage(
  context: OperateContext,
  filter: FlowFilter,
  start: Start,
  { limit, batch, unchangedMs, isWanted }: PageOptions,
): Promise<{
  readonly entries: FlowEntry[];
  readonly after: Place | undefined;
  readonly mayBeUnlisted: boolean;
}> {
  const endMs = Math.min(Date.now() + MAX_PAGE_MS, context.deadlineMs - RESERVED_MS);
  const isLate = (): boolean => Date.now() > endMs;
  const nowMs = serverTimeMs(await context.valkey.call("time"));
  const list = new NewestFlows(context, filter, start.after, start.mayBeUnlisted);
  const found: Listed[] = [];
  let after: Place | undefined = start.after;
  do {
    const listed = await list.next(batch, isLate);
    found.push(...(await readEntries(context, listed.flows, { nowMs, unchangedMs })).filter(isWanted));
    after = listed.after;
  } while (after !== undefined && found.length < limit && !isLate());
  const entries = found.slice(0, limit).map(({ entry }) => entry);
  return {
    entries,
    after: found.length > limit ? found[limit - 1]?.place : after,
    mayBeUnlisted: list.mayBeUnlisted,
  };
}

async function readEntries(
  context: OperateContext,
  listed: readonly ListedFlow[],
  options: { readonly nowMs: number; readonly unchangedMs: number },
): Promise<Listed[]> {
  const { router } = context;
  const places = listed.flatMap((place) => {
    const flowId = parseStoredFlowId(place.id);
    return flowId.ok ? [{ place, keys: router.flowKeys(flowId.value, place.partition) }] : [];
  });
  const replies = await readOfEach(context, places, ({ keys }) =>
    readFlow(keys, router.indexKeys(keys.partition)),
  );
  const records = places.flatMap(({ place, keys }, position) => {
    const record = flowRecordOf(keys, replies[position] ?? []);
    return record === undefined ? [] : [{ place, record }];
  });
  const uncounted = records
    .map(({ record }) => record)
    .filter(({ endedCounts }) => endedCounts === undefined);
  const members = await tallyMembers(context, uncounted, options.nowMs);
  return records.map(({ place, record }) => ({
    place,
    entry: flowEntry(record, members.get(record), options),
  }));
}

import { z } from "zod";
import {
  DEFAULT_UNCHANGED_MS,
  type FlowEntry,
  type FlowRecord,
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
const CURSOR = /^(\d{1,15})\.([0-9a-fA-F-]{36})$/;

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
      name: z.string().max(1_000).default("").describe("A part of the workflow's name, in any case"),
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
    const isWanted = (entry: FlowEntry): boolean =>
      (filter.state === undefined || entry.state === filter.state) && (!stuck || entry.stuck !== undefined);
    const page = await readPage(context, filter, unchanged_ms, limit, placeOf(cursor), isWanted);
    return {
      flows: page.entries,
      ...(counts === undefined ? {} : { counts }),
      ...(page.after === undefined ? {} : { next: `${page.after.createdAt}.${page.after.id}` }),
    };
  },
});

function placeOf(cursor: string | undefined): Place {
  const [, createdAt, id] = CURSOR.exec(cursor ?? "") ?? [];
  return createdAt === undefined || id === undefined ? NEWEST : { createdAt: Number(createdAt), id };
}

/** Reads flows until the page is full, the list ends or the time is up. */
async function readPage(
  context: OperateContext,
  filter: FlowFilter,
  unchangedMs: number,
  limit: number,
  start: Place,
  isWanted: (entry: FlowEntry) => boolean,
): Promise<{ readonly entries: FlowEntry[]; readonly after: Place | undefined }> {
  const endMs = Math.min(Date.now() + MAX_PAGE_MS, context.deadlineMs - RESERVED_MS);
  const isLate = (): boolean => Date.now() > endMs;
  const nowMs = serverTimeMs(await context.valkey.call("time"));
  const list = new NewestFlows(context, filter, start);
  const entries: FlowEntry[] = [];
  let after: Place | undefined = start;
  do {
    const listed = await list.next(Math.min(BATCH, limit - entries.length), isLate);
    const found = await readEntries(context, listed.flows, { nowMs, unchangedMs });
    entries.push(...found.filter(isWanted));
    after = listed.after;
  } while (after !== undefined && entries.length < limit && !isLate());
  return { entries, after };
}

async function readEntries(
  context: OperateContext,
  listed: readonly ListedFlow[],
  options: { readonly nowMs: number; readonly unchangedMs: number },
): Promise<FlowEntry[]> {
  const { router } = context;
  const keys = listed.flatMap(({ id, partition }) => {
    const flowId = parseStoredFlowId(id);
    return flowId.ok ? [router.flowKeys(flowId.value, partition)] : [];
  });
  const replies = await readOfEach(context, keys, (flow) => readFlow(flow, router.indexKeys(flow.partition)));
  const records = keys.flatMap((flow, position): FlowRecord[] => {
    const record = flowRecordOf(flow, replies[position] ?? []);
    return record === undefined ? [] : [record];
  });
  const uncounted = records.filter(({ endedCounts }) => endedCounts === undefined);
  const members = await tallyMembers(context, uncounted, options.nowMs);
  return records.map((record) => flowEntry(record, members.get(record), options));
}

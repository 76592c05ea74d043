/**
 * Deletes flows whose retention is over: marks each as purged, deletes its members, and then its own keys. Bounded work per
 * call and per round trip. A process that dies in between leaves the mark and the entry in `flows_ended`: the next run goes on.
 */

import { command, type ValkeyCommand } from "#shared/contract/command.ts";
import { type ExecutionId, parseExecutionId, parseStoredFlowId } from "#shared/contract/ids.ts";
import type { FlowKeys, IndexKeys } from "#shared/contract/keys.ts";
import { fieldText, parseTime } from "#shared/contract/record.ts";
import type { Reply } from "#shared/contract/reply.ts";
import { beginPurge, countMembers, finishPurge, purgeMember } from "#shared/contract/retention.ts";
import { ProtocolError, ValkeyError } from "#shared/errors.ts";
import type { IndexEntry } from "#shared/reconcile/indexes.ts";
import { callEach, failed, KEPT, type Outcome, PROCESSED, UNFINISHED } from "#shared/reconcile/outcome.ts";
import type { TaskRun } from "#shared/reconcile/run.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { chunked, replyOrThrow, sendChunks, valueOrThrow } from "#shared/valkey/batches.ts";

/** Members of a flow that are read, or deleted, before its turn ends. */
const MEMBERS_PER_PAGE = 500;
/** Calls in one pipeline: they block the server for some milliseconds in total, and other clients run in between. */
const CALLS_PER_PIPELINE = 500;

/** A flow whose end is older than the retention. */
interface DueFlow {
  readonly entry: IndexEntry;
  readonly flow: FlowKeys;
  readonly index: IndexKeys;
}

/** What is known of a due flow, and some of its members. */
interface FlowRead {
  readonly due: DueFlow;
  readonly isPurged: boolean;
  readonly retainedUntilMs: number;
  readonly isUnsent: boolean;
  /** All members if there are fewer than `MEMBERS_PER_PAGE`, otherwise so many. */
  readonly members: readonly string[];
}

export interface FlowRetention {
  readonly retentionMs: number;
  /** Whether a flow stays until the message about its end is sent. */
  readonly waitsForMessage: boolean;
}

/** Returns one outcome per entry of `flows_ended`, in their order. Rejects if Valkey does not answer as it should. */
export async function purgeFlows(
  run: TaskRun,
  retention: FlowRetention,
  entries: readonly IndexEntry[],
): Promise<Outcome[]> {
  const { router } = run.ports;
  const outcomes = new Map<IndexEntry, Outcome>();
  const due = entries.flatMap((entry): DueFlow[] => {
    const { partition } = entry.index;
    const id = parseStoredFlowId(entry.member);
    if (id.ok) {
      return [{ entry, flow: router.flowKeys(id.value, partition), index: router.indexKeys(partition) }];
    }
    run.reportUnreadable("ended flow skipped: invalid id", { partition, reason: id.error.message });
    outcomes.set(entry, KEPT);
    return [];
  });
  const reads = await readFlows(run, due);
  const begun = await begin(run, retention, reads);
  for (const read of reads) outcomes.set(read.due.entry, KEPT);
  for (const [read, outcome] of await purge(run, begun)) outcomes.set(read.due.entry, outcome);
  return entries.map(
    (entry) => outcomes.get(entry) ?? failed(new ValkeyError("the ended flow was not read")),
  );
}

/** One round trip. */
async function readFlows({ ports }: TaskRun, due: readonly DueFlow[]): Promise<FlowRead[]> {
  const values = await valuesOf(
    ports.valkey.pipelined(
      due.flatMap(({ flow, index }) => [
        command(flow.partition, "exists", flow.purged),
        command(flow.partition, "hget", flow.summary, "retained_until"),
        command(flow.partition, "zscore", index.flowEndsUnsent, flow.id),
        // Any members: a scan from the start would find only gaps where members were deleted.
        command(flow.partition, "srandmember", flow.members, MEMBERS_PER_PAGE),
      ]),
    ),
  );
  return due.map((one, position) => {
    const [purged, retainedUntil, unsent, members] = values.slice(4 * position, 4 * position + 4);
    return {
      due: one,
      isPurged: purged === 1,
      retainedUntilMs: parseTime(fieldText(retainedUntil)) ?? 0,
      isUnsent: unsent !== null,
      members: textsOf(members),
    };
  });
}

/** Marks the flows that nothing retains. Returns those that are marked, now or before. */
async function begin(
  run: TaskRun,
  { retentionMs, waitsForMessage }: FlowRetention,
  reads: readonly FlowRead[],
): Promise<FlowRead[]> {
  const unmarked = reads.filter(
    ({ isPurged, isUnsent, retainedUntilMs }) =>
      !isPurged && !(isUnsent && waitsForMessage) && retainedUntilMs <= run.serverNowMs,
  );
  const checks = await Promise.all(
    unmarked.map(async (read) => ({ read, check: await checkMembers(run, read) })),
  );
  const open = checks.filter(({ check }) => check.open > 0);
  for (const { read, check } of open) {
    // The counts of the summary are wrong, for example after a restore of single keys. Counting corrects them.
    run.warn("an ended flow has open members: counting them again", {
      flow_id: read.due.flow.id,
      open: check.open,
    });
  }
  await replies(
    run,
    open.map(({ read }) => read),
    ({ due }) => countMembers(due.flow),
  );
  const calls = checks.filter(({ check }) => check.open === 0);
  const answers = await replies(run, calls, ({ read: { due }, check }) => {
    const retainedUntilMs = due.entry.score + Math.max(retentionMs, check.retentionMs);
    return beginPurge(due.flow, due.index, due.entry.score, retainedUntilMs);
  });
  const marked = answers.filter(({ reply }) => wordOf(reply) === "begun").map(({ item }) => item.read);
  return [...reads.filter(({ isPurged }) => isPurged), ...marked];
}

interface MemberCheck {
  readonly open: number;
  /** The longest retention that a member's policy asks for. */
  readonly retentionMs: number;
}

/** Reads the phases and policies of all members, page by page. */
async function checkMembers(run: TaskRun, { due: { flow }, members: some }: FlowRead): Promise<MemberCheck> {
  const { router, valkey } = run.ports;
  let [open, retentionMs] = [0, 0];
  let page =
    some.length < MEMBERS_PER_PAGE ? { cursor: "0", members: some } : await scanMembers(run, flow, "0");
  for (;;) {
    const reads = idsOf(page.members).flatMap((id) => {
      const { partition, core, policy } = router.execKeys(id);
      return [command(partition, "hget", core, "lifecycle_phase"), command(partition, "get", policy)];
    });
    const values = await valuesOf(valkey.pipelined(reads));
    for (let position = 0; position < values.length; position += 2) {
      const phase = fieldText(values[position]);
      if (phase !== "" && phase !== "terminal") open += 1;
      retentionMs = Math.max(retentionMs, retentionOf(fieldText(values[position + 1])));
    }
    if (page.cursor === "0") return { open, retentionMs };
    await run.beginStep();
    page = await scanMembers(run, flow, page.cursor);
  }
}

async function scanMembers(
  { ports }: TaskRun,
  { partition, members }: FlowKeys,
  cursor: string,
): Promise<{ readonly cursor: string; readonly members: readonly string[] }> {
  const scan = command(partition, "sscan", members, cursor, "COUNT", MEMBERS_PER_PAGE);
  const [reply] = await valuesOf(ports.valkey.pipelined([scan]));
  const [next, found]: readonly unknown[] = Array.isArray(reply) ? reply : [];
  return { cursor: fieldText(next), members: textsOf(found) };
}

/** `stream_policy.retention_ttl_ms` of a policy, in milliseconds; 0 if it has none. */
function retentionOf(policyJson: string): number {
  if (!policyJson.includes("retention_ttl_ms")) return 0;
  try {
    const policy: unknown = JSON.parse(policyJson);
    const ttl = Number(Object(Object(policy).stream_policy).retention_ttl_ms);
    return Number.isSafeInteger(ttl) && ttl > 0 ? ttl : 0;
  } catch {
    return 0;
  }
}

/** Deletes a page of members of each flow, and the keys of the flows without members. */
async function purge(run: TaskRun, reads: readonly FlowRead[]): Promise<Map<FlowRead, Outcome>> {
  const members = reads.flatMap((read) => idsOf(read.members).map((id) => ({ read, id })));
  const progress = new Set<FlowRead>();
  for (const { item, reply } of await replies(run, members, ({ read, id }) =>
    purgeMember(read.due.flow, run.ports.router.execKeys(id)),
  )) {
    const word = wordOf(reply);
    if (word === "purged" || word === "more") progress.add(item.read);
    if (word === "purged") run.count(METRICS.executionsPurged);
    if (word === "purged" || word === "more") continue;
    run.warn("member of a purged flow not deleted, will retry", {
      flow_id: item.read.due.flow.id,
      execution_id: item.id,
      reason: word,
    });
  }
  const outcomes = new Map<FlowRead, Outcome>();
  for (const { item, reply } of await replies(run, reads, ({ due }) => finishPurge(due.flow, due.index))) {
    const isFinished = wordOf(reply) === "finished";
    if (isFinished) run.count(METRICS.flowsPurged);
    outcomes.set(item, isFinished ? PROCESSED : progress.has(item) ? UNFINISHED : KEPT);
  }
  return outcomes;
}

/** Calls functions in pipelines of bounded length, two in flight. Rejects if a call fails. */
async function replies<T>(
  run: TaskRun,
  items: readonly T[],
  commandOf: (item: T) => ValkeyCommand,
): Promise<{ readonly item: T; readonly reply: Reply }[]> {
  const answers = await sendChunks(
    chunked(items, () => 1, CALLS_PER_PIPELINE),
    async (chunk) => {
      await run.beginStep();
      return await callEach(run.ports, chunk, commandOf);
    },
  );
  return answers.flat().map(({ item, result }) => ({ item, reply: replyOrThrow(valueOrThrow(result)) }));
}

function wordOf(reply: Reply): string {
  return reply.kind === "refused" ? reply.code : (reply.fields[0] ?? "");
}

function textsOf(reply: unknown): string[] {
  if (!Array.isArray(reply)) throw new ProtocolError("the members of a flow are not an array");
  return reply.map(fieldText);
}

function idsOf(members: readonly string[]): ExecutionId[] {
  return members.flatMap((member) => {
    const id = parseExecutionId(member);
    return id.ok ? [id.value] : [];
  });
}

async function valuesOf(results: ReturnType<TaskRun["ports"]["valkey"]["pipelined"]>): Promise<unknown[]> {
  return (await results).map(valueOrThrow);
}

/**
 * Dispatch is away for minutes while completions go on arriving, and some are never sent. The reconciler runs every
 * minute. The queue must be back to normal within 1.5 times the time that it takes without a reconciler, and the lost
 * completions must be found.
 *
 * The clock is compressed: after each minute of the case, the harness moves the ends of the waiting upstreams and the
 * marks of the reconciler one minute into the past.
 */

import { command } from "#shared/contract/command.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { fieldText } from "#shared/contract/record.ts";
import { formatMark, parseMark } from "#shared/reconcile/resend-policy.ts";
import { type CaseContext, type FaultKind, runToEnd } from "#test/faults/case.ts";
import { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { RECONCILED } from "#test/faults/reconcile.ts";
import { Standalone } from "#test/faults/servers.ts";
import { TestBed } from "#test/faults/test-bed.ts";

interface Variant {
  readonly outageMinutes: number;
  /** The capacity of dispatch, in multiples of the load. */
  readonly capacity: number;
}

const VARIANTS: readonly Variant[] = [
  { outageMinutes: 5, capacity: 3 },
  { outageMinutes: 3, capacity: 1.5 },
  { outageMinutes: 20, capacity: 10 },
];
/** Completions per minute. */
const LOAD = 24;
const LOST_PERCENT = 5;
const MINUTE_MS = 60_000;
const MAX_RATIO = 1.5;
/** Minutes after the recovery in which the lost completions are found. */
const MINUTES_TO_FIND = 10;
const BATCH = 10;

export const outage: FaultKind = {
  name: "outage",
  cases: { full: VARIANTS.length, quick: 1 },
  startTestBed: async () => TestBed.start(await Standalone.start(), { ...RECONCILED, isDirect: true }),
  run: async (context) => {
    const { bed, random } = context;
    const variant = VARIANTS[context.number % VARIANTS.length];
    if (variant === undefined) throw new RangeError("no such variant");
    const { outageMinutes, capacity } = variant;
    // Rounded up to whole minutes: the harness looks once a minute.
    const maxRecoveryMinutes = Math.ceil((MAX_RATIO * outageMinutes) / (capacity - 1)) + 1;
    const arrivalMinutes = 1 + outageMinutes + maxRecoveryMinutes;
    const upstreams = LOAD * arrivalMinutes;
    const graph = {
      outcomes: Array.from({ length: 2 * upstreams }, () => "success" as const),
      edges: Array.from({ length: upstreams }, (_, up): [number, number] => [up, upstreams + up]),
    };
    const flow = await FlowUnderTest.build(bed, random, graph, {
      isInOrder: true,
      completions: {
        send: async (completions) => {
          const sent = completions.filter(() => !random.chance(LOST_PERCENT));
          const results = (await bed.completions.send(sent)).values();
          return completions.map((one) =>
            sent.includes(one) ? (results.next().value ?? { ok: true }) : { ok: true },
          );
        },
      },
    });
    await using reconcile = bed.startFunction("reconcile", { LANES: "default" });
    let recoveredAt: number | undefined;
    let peak = 0;
    for (let minute = 0; minute < arrivalMinutes + MINUTES_TO_FIND; minute += 1) {
      const isOut = minute >= 1 && minute <= outageMinutes;
      if (minute < arrivalMinutes) await completeSome(context, flow, minute * LOAD);
      if (!isOut) await dispatch(bed, Math.floor(LOAD * capacity));
      const queued = await queuedIn(bed);
      peak = Math.max(peak, queued);
      if (minute > outageMinutes && queued < LOAD / 2) recoveredAt ??= minute - outageMinutes;
      bed.note(`minute ${minute}: ${queued} queued, ${JSON.stringify(await reconcile.invoke({}))}`);
      await shift(bed, flow, flow.tasks.slice(0, upstreams), () => MINUTE_MS);
    }
    await runToEnd(context, flow);
    const findings = await flow.compareWithModel({ mayLeaveEdges: true });
    if (recoveredAt !== undefined && recoveredAt <= maxRecoveryMinutes) return findings;
    const problem = `the queue (${peak} at most) was not back to normal within ${maxRecoveryMinutes} minutes: ${recoveredAt}`;
    return { ...findings, duplicated: [...findings.duplicated, problem] };
  },
};

/** Ends the upstreams of one minute, spread over it. */
async function completeSome({ bed, random }: CaseContext, flow: FlowUnderTest, from: number): Promise<void> {
  for (let done = 0; done < LOAD; ) done += await flow.work(LOAD - done);
  await shift(bed, flow, flow.tasks.slice(from, from + LOAD), () => random.below(MINUTE_MS));
}

/** Dispatches at most `limit` messages. */
async function dispatch(bed: TestBed, limit: number): Promise<void> {
  for (let left = limit; left > 0; ) {
    const records = await bed.receive(Math.min(BATCH, left));
    if (records.length === 0) return;
    left -= records.length;
    await bed.deliver(records);
  }
}

async function queuedIn(bed: TestBed): Promise<number> {
  const { visible, inFlight, delayed } = await bed.queue.counts(bed.queue.queueUrl);
  return visible + inFlight + delayed;
}

/** Moves the ends of executions, and the reconciler's marks for them, into the past. */
async function shift(
  bed: TestBed,
  flow: FlowUnderTest,
  tasks: readonly ExecKeys[],
  byMs: () => number,
): Promise<void> {
  const { partition, id: flowId } = flow.flowKeys;
  const reads = await bed.valkey.pipelined(
    tasks.flatMap((keys) => [
      command(partition, "hget", keys.core, "completed_at"),
      command(partition, "get", keys.resent(flowId)),
    ]),
  );
  const textAt = (position: number): string => {
    const read = reads[position];
    if (!read?.ok) throw new Error("an end or a mark could not be read");
    return fieldText(read.value);
  };
  const writes = tasks.flatMap((keys, index) => {
    const end = textAt(2 * index);
    if (end === "") return [];
    const by = byMs();
    const moved = String(Number(end) - by);
    const mark = parseMark(textAt(2 * index + 1));
    return [
      command(partition, "hset", keys.core, "completed_at", moved),
      command(partition, "zadd", flow.index.lane(flow.lane).terminal, "XX", moved, keys.id),
      ...(mark === undefined
        ? []
        : [
            command(
              partition,
              "set",
              keys.resent(flowId),
              formatMark({ ...mark, end: moved, sentAtMs: mark.sentAtMs - by }),
            ),
          ]),
    ];
  });
  for (const write of await bed.valkey.pipelined(writes)) if (!write.ok) throw write.error;
}

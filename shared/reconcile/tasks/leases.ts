/**
 * The task `leases`: marks leases that ran out, so that a worker can reclaim the executions, and fails executions that were
 * reclaimed too often.
 *
 * A marked entry stays in the index until a worker reclaims the execution, so every sweep reads it again. It is called for
 * again only if its record and its policy say that the limit is reached: the reclaim has no grant, so the library answers
 * `invalid_claim_grant` below the limit, and ends the execution otherwise.
 *
 * An execution that became reclaimable is announced to the workers of its lane. If no worker reclaims it within the grace, its
 * message is sent again, as often as `resend-policy.ts` allows.
 */

import { randomUUID } from "node:crypto";
import { command } from "#shared/contract/command.ts";
import { parseExecutionId, partitionOf } from "#shared/contract/ids.ts";
import { decodeReply } from "#shared/contract/reply.ts";
import { markLeaseExpiredIfDue, reclaimExecution } from "#shared/contract/upkeep.ts";
import { isRecordError } from "#shared/errors.ts";
import { parseReadiness, readReadiness } from "#shared/ready/readiness.ts";
import { announceAvailable } from "#shared/reconcile/announce.ts";
import { type EndedExecution, sendEnded } from "#shared/reconcile/ended.ts";
import type { IndexEntry } from "#shared/reconcile/indexes.ts";
import {
  callEach,
  failed,
  inParts,
  KEPT,
  type Outcome,
  PROCESSED,
  pipelineEach,
} from "#shared/reconcile/outcome.ts";
import { ReadyResender } from "#shared/reconcile/ready-resend.ts";
import { type ListedExecution, readRecords } from "#shared/reconcile/records.ts";
import type { TaskRun } from "#shared/reconcile/run.ts";
import type { ReconcilerTask, TaskWork } from "#shared/reconcile/task.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";

/** How often an execution is reclaimed, unless its policy has a `max_reclaim_count`. */
export const DEFAULT_RECLAIM_LIMIT = 5;

export const leases: ReconcilerTask = {
  name: "leases",
  families: [{ name: "lease_expiry", paging: "due", isPerLane: false, keyOf: (keys) => keys.leaseExpiry }],
  metrics: [
    METRICS.leasesExpired,
    METRICS.reclaimLimitReached,
    METRICS.completionsSent,
    METRICS.readyAnnounced,
    METRICS.readyResent,
    METRICS.readyDeferred,
  ],
  ages: [],
  batchSize: 2_000,
  sendsAtEnd: false,
  isTimeCritical: true,
  begin: (run) => new LeaseSweep(run),
};

/** The ownership of an execution whose lease ran out and is marked. */
const MARKED = "lease_expired_reclaimable";

/** What one call did, or its error. */
type Step = { readonly execution: ListedExecution; readonly outcome: Outcome };

class LeaseSweep implements TaskWork {
  readonly #run: TaskRun;
  /** No grant names this worker, so its reclaims take no lease. */
  readonly #worker = { workerId: randomUUID(), instanceId: "reconciler" };
  /** Undefined if no lane has a ready queue. */
  readonly #resender: ReadyResender | undefined;

  constructor(run: TaskRun) {
    this.#run = run;
    const { readyQueues } = run.ports;
    this.#resender = readyQueues === undefined ? undefined : new ReadyResender(run, readyQueues);
  }

  process(entries: readonly IndexEntry[]): Promise<Outcome[]> {
    return inParts(entries, (part) => this.#process(part));
  }

  finish(): Promise<boolean> {
    return this.#resender?.sendNext() ?? Promise.resolve(false);
  }

  async #process(entries: readonly IndexEntry[]): Promise<Outcome[]> {
    const [reads, limits] = await Promise.all([
      readRecords(this.#run, entries),
      readReclaimLimits(this.#run, entries),
    ]);
    const listed = reads.flatMap((read) => (read.kind === "read" ? [read.execution] : []));
    const outcomes = new Map<ListedExecution, Outcome>();
    for (const { execution, outcome } of await this.#mark(listed)) outcomes.set(execution, outcome);
    const kept = listed.filter((execution) => {
      const outcome = outcomes.get(execution);
      return outcome?.ok === true && outcome.entry === "kept";
    });
    const isExhausted = ({ entry, reclaims }: ListedExecution): boolean =>
      reclaims >= (limits.get(entry) ?? DEFAULT_RECLAIM_LIMIT);
    const ended = await this.#end(kept.filter(isExhausted));
    for (const { execution, outcome } of ended) outcomes.set(execution, outcome);
    const announced = await this.#announce(kept.filter((execution) => !isExhausted(execution)));
    for (const { execution, outcome } of announced) outcomes.set(execution, outcome);
    return reads.map((read): Outcome => {
      if (read.kind === "invalid") return KEPT;
      if (read.kind === "failed") return failed(read.error);
      return outcomes.get(read.execution) ?? failed(new Error("a lease has no result"));
    });
  }

  /** Marks the leases that ran out. Those that are marked already need no call. */
  async #mark(listed: readonly ListedExecution[]): Promise<Step[]> {
    const isMarked = ({ ownership }: ListedExecution) => ownership === MARKED;
    const unmarked = listed.filter((execution) => !isMarked(execution));
    const results = await callEach(this.#run.ports, unmarked, ({ target }) => markLeaseExpiredIfDue(target));
    return [
      ...listed.filter(isMarked).map((execution) => ({ execution, outcome: KEPT })),
      ...results.map(({ item: execution, result }) => {
        const reply = result.ok ? decodeReply(result.value) : result;
        if (!reply.ok) return { execution, outcome: this.#failure(execution, reply.error) };
        const [word = ""] = reply.value.kind === "done" ? reply.value.fields : [];
        if (word === "marked_expired") this.#run.count(METRICS.leasesExpired);
        return { execution, outcome: LEFT_INDEX.has(word) ? PROCESSED : KEPT };
      }),
    ];
  }

  /** Ends executions whose limit of reclaims is reached, unless a worker has reclaimed them meanwhile. */
  async #end(exhausted: readonly ListedExecution[]): Promise<Step[]> {
    const results = await callEach(this.#run.ports, exhausted, ({ target, attempt }) =>
      reclaimExecution(target, this.#worker, {
        interrupted: attempt,
        leaseId: this.#worker.workerId,
        leaseTtlMs: 1,
        attemptId: this.#worker.workerId,
        limit: DEFAULT_RECLAIM_LIMIT,
      }),
    );
    const ended: EndedExecution[] = [];
    const steps = results.map(({ item: execution, result }): Step => {
      const reply = result.ok ? decodeReply(result.value) : result;
      if (!reply.ok) return { execution, outcome: this.#failure(execution, reply.error) };
      // `invalid_claim_grant`, `execution_not_reclaimable`: it changed since it was read.
      if (reply.value.kind === "done" || reply.value.code !== "max_retries_exhausted") {
        return { execution, outcome: KEPT };
      }
      this.#run.count(METRICS.reclaimLimitReached);
      const { flowId, target } = execution;
      if (flowId !== undefined) ended.push({ keys: target.keys, flowId, outcome: "failed" });
      return { execution, outcome: PROCESSED };
    });
    await sendEnded(this.#run, ended);
    return steps;
  }

  /** Announces what this sweep has marked, and collects what no worker has reclaimed for longer than the grace. */
  async #announce(reclaimable: readonly ListedExecution[]): Promise<Step[]> {
    const { readyQueues, valkey } = this.#run.ports;
    const listed = reclaimable.filter(({ target }) => readyQueues?.publisher.announces(target.lane));
    const isMarked = ({ ownership }: ListedExecution): boolean => ownership === MARKED;
    await announceAvailable(
      this.#run,
      listed
        .filter((execution) => !isMarked(execution))
        .map(({ target, flowId }) => ({ executionId: target.keys.id, flowId })),
    );
    const waiting = listed.filter((one) => isMarked(one) && this.#run.isPastGrace(one.entry.score));
    const reads = await pipelineEach(valkey, waiting, ({ target }) => readReadiness(target.keys));
    const failures = reads.flatMap(({ item, result }): Step[] =>
      result.ok ? [] : [{ execution: item, outcome: this.#failure(item, result.error) }],
    );
    const unclaimed = reads.flatMap(({ item, result }) => {
      const readiness = result.ok ? parseReadiness(result.value) : undefined;
      if (readiness === undefined) return [];
      const { target, flowId, entry } = item;
      return [{ item, execution: { keys: target.keys, flowId, readiness, sinceMs: entry.score } }];
    });
    const collected = (await this.#resender?.collect(unclaimed.map(({ execution }) => execution))) ?? [];
    return [
      ...failures,
      ...unclaimed.map(({ item }, at) => ({ execution: item, outcome: collected[at] ?? KEPT })),
    ];
  }

  #failure({ target: { keys } }: ListedExecution, error: Error): Outcome {
    if (!isRecordError(error)) return failed(error);
    this.#run.reportUnreadable("lease not checked", { execution_id: keys.id, reason: error.message });
    return KEPT;
  }
}

/** Replies of `ff_mark_lease_expired_if_due` after which the entry is no longer in the index. */
const LEFT_INDEX = new Set(["execution_not_found", "not_active", "unowned"]);

/** Reads the limits that policies set, in one round trip and one command per partition. A missing one means the default. */
async function readReclaimLimits(
  run: TaskRun,
  entries: readonly IndexEntry[],
): Promise<ReadonlyMap<IndexEntry, number>> {
  const listed = entries.flatMap((entry) => {
    const id = parseExecutionId(entry.member);
    return id.ok && partitionOf(id.value) === entry.index.partition
      ? [{ entry, key: run.ports.router.execKeys(id.value).policy }]
      : [];
  });
  const groups = [...Map.groupBy(listed, ({ entry }) => entry.index.partition)];
  const results = await pipelineEach(run.ports.valkey, groups, ([partition, group]) =>
    command(partition, "mget", ...group.map(({ key }) => key)),
  );
  return new Map(
    results.flatMap(({ item: [, group], result }) => {
      const policies: readonly unknown[] = result.ok && Array.isArray(result.value) ? result.value : [];
      return group.flatMap(({ entry }, position): [IndexEntry, number][] => {
        const limit = reclaimLimitOf(policies[position]);
        return limit === undefined ? [] : [[entry, limit]];
      });
    }),
  );
}

function reclaimLimitOf(policy: unknown): number | undefined {
  if (typeof policy !== "string" || !policy.includes("max_reclaim_count")) return undefined;
  try {
    const limit: unknown = Object(JSON.parse(policy)).max_reclaim_count;
    return typeof limit === "number" ? limit : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Sends the ready messages of executions again that stay unclaimed for longer than the grace.
 *
 * In Valkey, an execution whose message is lost looks like one whose message waits in the queue of its lane. So the rules of
 * `resend-policy.ts` decide for each lane, with the backlog of its own queue.
 */

import { command } from "#shared/contract/command.ts";
import { type FlowId, type LaneId, type Partition, partitionOf } from "#shared/contract/ids.ts";
import { type ExecKeys, readyResentKey } from "#shared/contract/keys.ts";
import { fieldText, parseTime } from "#shared/contract/record.ts";
import { SUBMISSION_FIELDS } from "#shared/contract/submission.ts";
import { isRecordError } from "#shared/errors.ts";
import type { ReadyExecution } from "#shared/ready/message.ts";
import type { Readiness } from "#shared/ready/readiness.ts";
import { failed, KEPT, type Outcome, pipelineEach } from "#shared/reconcile/outcome.ts";
import { countQueued, hasTimeToSend } from "#shared/reconcile/resend.ts";
import { parseMark, type ResendCandidate, ResendPlan } from "#shared/reconcile/resend-policy.ts";
import type { ReadyPorts, TaskRun } from "#shared/reconcile/run.ts";
import { type MarkedMessages, sendMarked } from "#shared/reconcile/send.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { chunked } from "#shared/valkey/batches.ts";

/** An execution that a worker could claim. */
export interface UnclaimedExecution {
  readonly keys: ExecKeys;
  /** Undefined if it is in no flow. */
  readonly flowId: FlowId | undefined;
  readonly readiness: Readiness;
  /**
   * Since when it could be claimed, in milliseconds since the epoch; undefined if the record has no time. Far in the future
   * for a root that release 0.1 submitted: the end of the submission then counts.
   */
  readonly sinceMs: number | undefined;
}

interface MissedReady extends ResendCandidate {
  readonly ready: ReadyExecution;
}

/** Messages sent between two checks of the deadline. */
const MESSAGES_PER_SEND = 500;

/** Collects executions while a task reads, and sends their messages at its end. */
export class ReadyResender {
  readonly #run: TaskRun;
  readonly #ready: ReadyPorts;
  readonly #plans = new Map<LaneId, ResendPlan<MissedReady>>();
  /** What remains to send; undefined before it is selected. */
  #chunks: MissedReady[][] | undefined;
  #sent = 0;
  #failures = 0;

  constructor(run: TaskRun, ready: ReadyPorts) {
    this.#run = run;
    this.#ready = ready;
  }

  /**
   * Collects the executions that are unclaimed for longer than the grace and whose lanes have a queue. Returns one outcome
   * per execution, in their order: failed if a flow or a mark could not be read.
   */
  async collect(executions: readonly UnclaimedExecution[]): Promise<Outcome[]> {
    const overdue: UnclaimedExecution[] = [];
    for (const execution of executions) {
      const { readiness, sinceMs } = execution;
      // In a paused lane, nothing is claimed: what waits there is not lost.
      if (!this.#ready.publisher.announces(readiness.lane) || this.#run.isPaused(readiness.lane)) continue;
      if (this.#run.isPastGrace(sinceMs)) overdue.push(execution);
      else this.#planOf(readiness.lane).count(sinceMs, this.#run.serverNowMs);
    }
    const flows = await this.#readFlows(overdue);
    const marks = await pipelineEach(this.#run.ports.valkey, overdue, ({ keys, flowId }) =>
      command(keys.partition, "get", readyResentKey(keys.id, flowId)),
    );
    const failures = new Map<UnclaimedExecution, Error>();
    for (const { item, result } of marks) {
      const flow = flows.get(flowName(item)) ?? NO_FLOW;
      const error = result.ok || isRecordError(result.error) ? flow.error : result.error;
      if (error !== undefined) failures.set(item, error);
      // A mark of another type counts as none; the next one overwrites it.
      else this.#add(item, flow, result.ok ? parseMark(fieldText(result.value)) : undefined);
    }
    return executions.map((execution) => {
      const error = failures.get(execution);
      return error === undefined ? KEPT : failed(error);
    });
  }

  /** Sends the next part of what the rules select. Returns whether there is more. Throws SweepStopped if the lease is lost. */
  async sendNext(): Promise<boolean> {
    const due = [...this.#plans.values()].reduce((sum, { dueCount }) => sum + dueCount, 0);
    if (due === 0) return false;
    this.#chunks ??= await this.#select();
    const chunk = this.#chunks.shift();
    if (chunk === undefined || !(await hasTimeToSend(this.#run))) {
      this.#run.count(METRICS.readyDeferred, due - this.#sent - this.#failures);
      return false;
    }
    const outcomes = await sendMarked(this.#run, this.#messages, chunk);
    const sent = outcomes.filter(({ ok }) => ok).length;
    this.#sent += sent;
    this.#failures += chunk.length - sent;
    this.#run.count(METRICS.readyResent, sent);
    return true;
  }

  get #messages(): MarkedMessages<MissedReady> {
    const { publisher } = this.#ready;
    return {
      kind: "ready message",
      markOf: ({ ready: { executionId, flowId } }) => ({
        partition: partitionOf(executionId),
        key: readyResentKey(executionId, flowId),
      }),
      publish: (items) =>
        publisher.announce(
          items.map(({ ready }) => ready),
          this.#run.ports.deadlineMs,
        ),
    };
  }

  async #select(): Promise<MissedReady[][]> {
    const selected: MissedReady[] = [];
    for (const [lane, plan] of this.#plans) {
      if (plan.dueCount === 0) continue;
      const backlog = this.#ready.backlogs.get(lane);
      const queued = backlog === undefined ? undefined : await countQueued(this.#run, backlog);
      selected.push(...plan.select(queued));
    }
    this.#run.beginSending();
    return [...chunked(selected, () => 1, MESSAGES_PER_SEND)];
  }

  #add(
    { keys, flowId, readiness, sinceMs }: UnclaimedExecution,
    { isSending, completedAtMs }: FlowRead,
    mark: MissedReady["mark"],
  ): void {
    if (!isSending) return;
    const nowMs = this.#run.serverNowMs;
    const isReleasedRoot = sinceMs !== undefined && sinceMs > nowMs;
    const endedAtMs = isReleasedRoot ? completedAtMs : sinceMs;
    const { lane, kind, eligibility } = readiness;
    const plan = this.#planOf(lane);
    plan.count(endedAtMs, nowMs);
    if (!this.#run.isPastGrace(endedAtMs)) return;
    plan.add(
      { ready: { executionId: keys.id, flowId, lane, kind }, end: eligibility, endedAtMs, mark },
      nowMs,
    );
  }

  #planOf(lane: LaneId): ResendPlan<MissedReady> {
    const plan = this.#plans.get(lane) ?? new ResendPlan(this.#run.ports.graceMs);
    this.#plans.set(lane, plan);
    return plan;
  }

  /** Reads the flow of each execution once. */
  async #readFlows(executions: readonly UnclaimedExecution[]): Promise<ReadonlyMap<string, FlowRead>> {
    const flows = new Map<string, { readonly partition: Partition; readonly flowId: FlowId }>();
    for (const { keys, flowId } of executions) {
      if (flowId !== undefined) flows.set(flowName({ keys, flowId }), { partition: keys.partition, flowId });
    }
    const reads = await pipelineEach(this.#run.ports.valkey, [...flows], ([, { partition, flowId }]) => {
      const { core } = this.#run.ports.router.flowKeys(flowId, partition);
      return command(
        partition,
        "hmget",
        core,
        "public_flow_state",
        SUBMISSION_FIELDS.tasks,
        SUBMISSION_FIELDS.completedAt,
      );
    });
    return new Map(
      reads.map(({ item: [name], result }) => [
        name,
        result.ok ? flowOf(result.value) : { ...NO_FLOW, error: result.error },
      ]),
    );
  }
}

/** What a flow says about the ready messages of its members. */
interface FlowRead {
  /** False while its submission is not complete, which then announces its roots itself, and once the flow is cancelled. */
  readonly isSending: boolean;
  /** When its submission was complete, in milliseconds since the epoch. */
  readonly completedAtMs: number | undefined;
  readonly error: Error | undefined;
}

const NO_FLOW: FlowRead = { isSending: true, completedAtMs: undefined, error: undefined };

function flowOf(value: unknown): FlowRead {
  const [state = "", tasks = "", completedAt = ""] = Array.isArray(value) ? value.map(fieldText) : [];
  return {
    isSending: state !== "cancelled" && (tasks === "" || completedAt !== ""),
    completedAtMs: parseTime(completedAt),
    error: undefined,
  };
}

function flowName({ keys, flowId }: Pick<UnclaimedExecution, "keys" | "flowId">): string {
  return `${keys.partition} ${flowId ?? ""}`;
}

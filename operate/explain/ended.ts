/** Executions that have ended: how, why, and whether their children know. */

import { type Cause, cause } from "#operate/explain/causes.ts";
import { overdueCauses } from "#operate/explain/completions.ts";
import { type ExplainContext, forEachPage, sluice } from "#operate/explain/read.ts";
import { readSkip, type Skip, skipCause } from "#operate/explain/skip-chain.ts";
import type { Subject } from "#operate/explain/subject.ts";
import { ago, plural } from "#operate/words.ts";
import { readAll } from "#shared/consistency/read.ts";
import { command } from "#shared/contract/command.ts";
import { type EdgeId, type ExecutionId, parseEdgeId, parseExecutionId } from "#shared/contract/ids.ts";
import { fieldText, parseTime } from "#shared/contract/record.ts";

/** The causes of an execution in the phase `terminal`, and the chain of a skip. */
export async function endedCauses(
  context: ExplainContext,
  subject: Subject,
  graceMs: number,
): Promise<{ readonly causes: Cause[]; readonly skip: Skip | undefined }> {
  const skip = subject.record.terminal_outcome === "skipped" ? await readSkip(context, subject) : undefined;
  const own = skip === undefined ? [outcomeCause(subject)] : [skipCause(skip)];
  return { causes: [...own, ...(await childrenCauses(context, subject, graceMs))], skip };
}

function outcomeCause({ record, keys, nowMs }: Subject): Cause {
  const when = ago(parseTime(record.completed_at), nowMs);
  const replay = [
    sluice("replay", keys.id, "--descendants", "--dry-run"),
    sluice("replay", keys.id, "--descendants"),
  ];
  switch (record.terminal_outcome) {
    case "success":
      return cause("succeeded", `It succeeded ${when}.`);
    case "failed":
      return cause(
        "failed",
        `It failed ${when}, in attempt ${Number(record.total_attempt_count)}: ${record.failure_reason || "without a reason"}.`,
        { next: replay },
      );
    case "cancelled":
      return cause(
        "cancelled",
        `It was cancelled ${when}${record.cancelled_by === "" ? "" : ` by ${record.cancelled_by}`}: ` +
          `${record.cancellation_reason || "without a reason"}.`,
        { next: replay },
      );
    case "expired":
      return cause("expired", `It expired ${when}: ${record.failure_reason || "its time was over"}.`, {
        next: replay,
      });
    default:
      return cause(
        "record_invalid",
        `Its record says terminal, with the outcome ${record.terminal_outcome || "none"}, which the contract does not define.`,
        { next: [sluice("doctor")] },
      );
  }
}

/** Children that still wait for an execution which ended longer ago than the grace period. */
async function childrenCauses(context: ExplainContext, subject: Subject, graceMs: number): Promise<Cause[]> {
  const { record, keys, flow, nowMs } = subject;
  const endedAtMs = parseTime(record.completed_at) ?? parseTime(record.last_transition_at);
  if (flow === undefined || flow.isPurged) return [];
  if (endedAtMs !== undefined && Math.abs(nowMs - endedAtMs) <= graceMs) return [];
  const waiting = await readWaitingChildren(context, subject);
  if (waiting.count === 0) return [];
  const flowId = flow.keys.id;
  const overdue = {
    executions: new Set([keys.id]),
    examples: [
      { id: keys.id, outcome: record.terminal_outcome, completedAt: record.completed_at, endedAtMs },
    ],
    flowId,
  };
  return overdueCauses(context, overdue, { nowMs, graceMs }, (details) =>
    cause(
      "children_not_updated",
      `It ended ${ago(endedAtMs, nowMs)}, and ${plural(waiting.count, "edge")} of its children ${waiting.count === 1 ? "does" : "do"} not ` +
        `know: its completion is presumed missing. ${details}`,
      {
        count: waiting.count,
        involved: { executions: waiting.children, edges: waiting.edges },
        next: [sluice("publish", keys.id, "--dry-run"), sluice("publish", keys.id)],
      },
    ),
  );
}

interface WaitingChildren {
  readonly count: number;
  readonly children: readonly ExecutionId[];
  readonly edges: readonly EdgeId[];
}

const MAX_EXAMPLES = 10;

async function readWaitingChildren(
  context: ExplainContext,
  { keys, flow }: Subject,
): Promise<WaitingChildren> {
  const found = { count: 0, children: [] as ExecutionId[], edges: [] as EdgeId[] };
  if (flow === undefined) return found;
  const { partition } = keys;
  const outgoing = { partition, key: flow.keys.outgoing(keys.id) };
  await forEachPage(context, outgoing, async (members) => {
    const edges = members.flatMap((member): EdgeId[] => {
      const edge = parseEdgeId(member);
      return edge.ok ? [edge.value] : [];
    });
    const targets = await readAll(
      context,
      edges.map((edge) => command(partition, "hget", flow.keys.edge(edge), "downstream_execution_id")),
    );
    const pairs = edges.flatMap((edge, position) => {
      const child = parseExecutionId(targets[position]);
      return child.ok ? [{ edge, child: context.router.execKeys(child.value) }] : [];
    });
    const states = await readAll(
      context,
      pairs.flatMap(({ edge, child }) => [
        command(child.partition, "hget", child.dep(edge), "state"),
        command(child.partition, "hget", child.core, "lifecycle_phase"),
      ]),
    );
    for (const [position, { edge, child }] of pairs.entries()) {
      const [state, phase] = states.slice(2 * position, 2 * position + 2).map(fieldText);
      if (state !== "unsatisfied" || phase === "terminal") continue;
      found.count += 1;
      if (found.edges.length >= MAX_EXAMPLES) continue;
      found.children.push(child.id);
      found.edges.push(edge);
    }
  });
  return found;
}

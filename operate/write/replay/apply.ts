/** Replays executions as planned. */

import { type ExecutionRecord, readExecutions } from "#operate/execution.ts";
import type { OperateContext } from "#operate/operation.ts";
import { applyEach, failure, type Verdict } from "#operate/write/changes.ts";
import { type EndedExecution, sendCompletions } from "#operate/write/completions.ts";
import { readDependencies } from "#operate/write/replay/edges.ts";
import { type PlannedReplay, planReplay, type ReplayPlan } from "#operate/write/replay/plan.ts";
import { replayExecution } from "#sdk/replay-execution.ts";
import { PublishError, RefusedError } from "#shared/errors.ts";

/** How often descendants are replayed that were skipped again while the command ran. */
const MAX_REPAIRS = 3;

/**
 * Replays the executions of one page of a plan: one verdict per execution, in their order. Those that are skipped come first,
 * and the others only if all of them were replayed: then nothing runs before all that depends on it waits.
 *
 * A delivery of an old completion skips a descendant again, as long as the failure above it is not replayed. After that, none
 * can, and such a descendant is replayed once more.
 */
export async function applyReplays(
  context: OperateContext,
  plan: ReplayPlan,
  page: readonly PlannedReplay[],
  withDescendants: boolean,
): Promise<Verdict[]> {
  const verdicts = new Map(page.map((one) => [one, one.verdict]));
  const open = page.filter(({ verdict }) => verdict.status === "would_change");
  const descendants = open.filter(({ isSkipped }) => isSkipped);
  const roots = open.filter(({ isSkipped }) => !isSkipped);
  await replayAll(context, descendants, verdicts);
  const failed = descendants.find((one) => verdicts.get(one)?.status === "failed");
  if (failed === undefined) {
    await replayAll(context, roots, verdicts);
  } else {
    const text = `not replayed, because its descendant ${failed.execution.keys.id} was not: run the command again`;
    for (const root of roots) verdicts.set(root, { status: "failed", code: "descendant_failed", text });
  }
  await sendMissed(context, plan, descendants);
  if (withDescendants && failed === undefined && roots.length > 0) await repair(context, roots);
  return page.map((one) => verdicts.get(one) ?? one.verdict);
}

async function replayAll(
  context: OperateContext,
  planned: readonly PlannedReplay[],
  verdicts: Map<PlannedReplay, Verdict>,
): Promise<void> {
  const executions = planned.map(({ execution }) => execution);
  const results = await applyEach(executions, (execution) => replayOne(context, execution));
  for (const [at, one] of planned.entries()) verdicts.set(one, results[at] ?? one.verdict);
}

async function replayOne(context: OperateContext, { keys, fields }: ExecutionRecord): Promise<Verdict> {
  try {
    const { status, unsatisfied } = await replayExecution(context, keys.id, {
      replayCount: fields.replay_count,
    });
    if (status === "repeated") {
      return {
        status: "unchanged",
        code: "already_replayed",
        text: "was replayed meanwhile, and has not run since",
      };
    }
    const text =
      unsatisfied === 0
        ? "is replayed: a worker can run it"
        : `is replayed: it waits for ${unsatisfied} of its dependencies`;
    return { status: "changed", text };
  } catch (error) {
    if (error instanceof RefusedError && error.code === "execution_not_terminal") {
      return { status: "unchanged", code: error.code, text: "was replayed meanwhile, and has run since" };
    }
    if (!(error instanceof PublishError)) return failure(error);
    const text =
      "is replayed, but not announced to its workers: run the command again, or wait for the reconciler";
    return { status: "failed", code: error.code, text };
  }
}

/** Replays descendants of the replayed executions that were skipped again meanwhile. */
async function repair(context: OperateContext, roots: readonly PlannedReplay[]): Promise<void> {
  const ids = roots.map(({ execution }) => execution.keys.id);
  for (let round = 0; round < MAX_REPAIRS; round += 1) {
    const selected = (await readExecutions(context, ids))
      .filter((one) => one?.fields.lifecycle_phase !== "terminal")
      .filter((one) => one !== undefined);
    const plan = await planReplay(context, selected, { withDescendants: true });
    const again = plan.planned.filter(
      ({ isSkipped, verdict }) => isSkipped && verdict.status === "would_change",
    );
    if (again.length === 0) return;
    await replayAll(context, again, new Map());
    await sendMissed(context, plan, again);
  }
}

/**
 * Sends the completions of upstreams that have ended and will not run again: the replay has reopened their edges, and their
 * completions were processed before. The reconciler sends what is not sent here.
 */
async function sendMissed(
  context: OperateContext,
  { replayed }: ReplayPlan,
  descendants: readonly PlannedReplay[],
): Promise<void> {
  if (context.completions === undefined || descendants.length === 0) return;
  const dependencies = await readDependencies(
    context,
    descendants.map(({ execution }) => execution),
  );
  const waitedFor = new Set(
    dependencies.flatMap(({ edges }) =>
      edges.flatMap(({ upstream, state }) =>
        state === "unsatisfied" && !replayed.has(upstream) ? [upstream] : [],
      ),
    ),
  );
  const upstreams = await readExecutions(context, [...waitedFor]);
  await sendCompletions(
    context,
    upstreams.flatMap((upstream): EndedExecution[] => {
      const { lifecycle_phase: phase, terminal_outcome: outcome } = upstream?.fields ?? {};
      if (upstream?.flowId === undefined || phase !== "terminal" || outcome === undefined) return [];
      return [{ id: upstream.keys.id, flowId: upstream.flowId, outcome }];
    }),
  );
}

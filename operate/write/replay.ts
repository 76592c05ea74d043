import { z } from "zod";
import { type Change, changeReport, MAX_CHANGES } from "#operate/change-report.ts";
import { readExecutions } from "#operate/execution.ts";
import { type OperateContext, writeOperation } from "#operate/operation.ts";
import {
  checkSelection,
  describeSelection,
  formatPosition,
  isLate,
  parsePosition,
  partitionsOf,
  recordsIn,
  type Selection,
  type State,
  selectedIn,
  selectionOf,
} from "#operate/selection.ts";
import { failure, missingChange, namedChanges, reportOf, selectedShape } from "#operate/write/changes.ts";
import { applyReplays } from "#operate/write/replay/apply.ts";
import { planReplay, type ReplayPlan } from "#operate/write/replay/plan.ts";
import type { Partition } from "#shared/contract/ids.ts";

const inputSchema = z
  .strictObject({
    ...selectedShape,
    descendants: z
      .boolean()
      .default(false)
      .describe("Also replay the descendants that were skipped because of the selected executions"),
  })
  .superRefine(checkSelection);

/** Selected by a flow or filter without states: what did not succeed by itself. */
const STATES: readonly State[] = ["failed", "expired"];

/**
 * Runs executions again that have ended, and with `descendants` those that were skipped because of them.
 *
 * One partition is planned as a whole, so that an execution below two failures is replayed if both are selected. First the
 * skipped executions are replayed, which then wait, and the others last. A crash in between leaves executions that wait for
 * failures: the reconciler skips them again, or a repetition of the command replays the rest.
 */
export const replay = writeOperation({
  name: "replay",
  input: inputSchema,
  output: changeReport,
  target: (input) => describeSelection(input) + (input.descendants ? " with descendants" : ""),
  async run(context, input) {
    const selection = selectionOf(input, STATES);
    const { partitions, missing } = await scopeOf(context, selection);
    const from = parsePosition(input.cursor);
    const changes: Change[] = missingChange(selection, missing);
    for (const [at, partition] of partitions.entries()) {
      if (partition < from.partition) continue;
      const after = partition === from.partition ? from.after : "";
      const plan = await planFor(context, selection, partition, input.descendants);
      const rest = plan.planned.filter(({ place }) => place > after);
      const page = rest.slice(0, MAX_CHANGES - changes.length);
      const verdicts = input.dry_run
        ? page.map(({ verdict }) => verdict)
        : await applyReplays(context, plan, page, input.descendants);
      const results = page.map(
        ({ execution }, position) =>
          [execution, verdicts[position] ?? failure(new Error("no result is known"))] as const,
      );
      changes.push(...(await namedChanges(context, results)));
      const last = page.at(-1)?.place ?? after;
      if (page.length < rest.length) return reportOf(input, changes, formatPosition(partition, last));
      const following = partitions[at + 1];
      if (following !== undefined && isLate(context)) {
        return reportOf(input, changes, formatPosition(following, ""));
      }
    }
    return reportOf(input, changes, undefined);
  },
});

/** The partitions to plan, and the named execution or flow if it does not exist. */
async function scopeOf(
  context: OperateContext,
  selection: Selection,
): Promise<{ readonly partitions: readonly Partition[]; readonly missing: string | undefined }> {
  if (selection.kind === "execution") {
    const [execution] = await readExecutions(context, [selection.id]);
    return execution === undefined
      ? { partitions: [], missing: selection.id }
      : { partitions: [execution.keys.partition], missing: undefined };
  }
  const partitions = await partitionsOf(context, selection);
  const isMissing = selection.kind === "flow" && partitions.length === 0;
  return { partitions, missing: isMissing ? selection.flowId : undefined };
}

async function planFor(
  context: OperateContext,
  selection: Selection,
  partition: Partition,
  withDescendants: boolean,
): Promise<ReplayPlan> {
  if (selection.kind === "execution") {
    const selected = (await readExecutions(context, [selection.id])).filter((one) => one !== undefined);
    return planReplay(context, selected, { withDescendants });
  }
  const selected = await selectedIn(context, selection, partition);
  // Below these, an interrupted replay of the flow may have left skipped executions.
  const starts =
    withDescendants && selection.kind === "flow"
      ? (await recordsIn(context, selection, partition)).filter(
          ({ fields }) => Number(fields.replay_count) > 0,
        )
      : [];
  return planReplay(context, selected, { withDescendants, starts });
}

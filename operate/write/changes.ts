/** Builds operations that change each of the selected executions. */

import type { z } from "zod";
import { type Change, type ChangeReport, changeReport, writeInput } from "#operate/change-report.ts";
import { type ExecutionRecord, targetOf } from "#operate/execution.ts";
import {
  type OperateContext,
  type WriteInput,
  type WriteOperation,
  writeOperation,
} from "#operate/operation.ts";
import {
  describeSelection,
  type Selection,
  type SelectionInput,
  type State,
  selectionOf,
  selectionShape,
  selectPage,
} from "#operate/selection.ts";
import { readTaskNames } from "#operate/task-names.ts";
import type { ValkeyCommand } from "#shared/contract/command.ts";
import type { Target } from "#shared/contract/ownership.ts";
import type { Reply } from "#shared/contract/reply.ts";
import { pairResults } from "#shared/contract/results.ts";
import { InvalidRecordError, messageOf, SluiceError } from "#shared/errors.ts";
import { noResult, replyOrThrow, valueOrThrow } from "#shared/valkey/batches.ts";

/** What becomes of one execution. */
export type Verdict = Omit<Change, "target" | "task">;

/** The properties that the input of each operation on selected executions has. `checkSelection` checks them together. */
export const selectedShape = { ...writeInput, ...selectionShape };
export type SelectedInput = WriteInput & SelectionInput;

interface ExecutionOperation<Input extends SelectedInput> {
  readonly name: string;
  readonly input: z.ZodType<Input>;
  /** Selects executions in these states where a flow or a filter names none. */
  readonly states: readonly State[];
  /** What would become of an execution, according to its record. */
  inspect(execution: ExecutionRecord, input: Input): Verdict;
  /** Changes executions for which `inspect` returned `would_change`: one result per execution, in order. */
  apply(
    context: OperateContext,
    executions: readonly ExecutionRecord[],
    input: Input,
  ): Promise<readonly Verdict[]>;
}

export function executionOperation<Input extends SelectedInput>(
  operation: ExecutionOperation<Input>,
): WriteOperation<Input, ChangeReport> {
  return writeOperation<Input, ChangeReport>({
    name: operation.name,
    input: operation.input,
    output: changeReport,
    target: describeSelection,
    async run(context, input) {
      const selection = selectionOf(input, operation.states);
      const page = await selectPage(context, selection, input.cursor);
      const inspected = page.executions.map((execution) => ({
        execution,
        verdict: operation.inspect(execution, input),
      }));
      const verdicts = new Map(inspected.map(({ execution, verdict }) => [execution, verdict]));
      if (!input.dry_run) {
        const open = inspected.filter(({ verdict }) => verdict.status === "would_change");
        const executions = open.map(({ execution }) => execution);
        const applied = executions.length === 0 ? [] : await operation.apply(context, executions, input);
        for (const [at, execution] of executions.entries()) {
          verdicts.set(execution, applied[at] ?? { status: "failed", text: "no result is known" });
        }
      }
      const changes = await namedChanges(context, [...verdicts]);
      return reportOf(input, [...missingChange(selection, page.missing), ...changes], page.next);
    },
  });
}

/** The entries of executions, with the ids of their tasks. */
export async function namedChanges(
  context: OperateContext,
  verdicts: readonly (readonly [ExecutionRecord, Verdict])[],
): Promise<Change[]> {
  const tasks = await readTaskNames(
    context,
    verdicts.map(([{ keys }]) => keys.id),
  );
  return verdicts.map(([{ keys }, verdict], at) => {
    const task = tasks[at] ?? "";
    return { target: keys.id, ...(task === "" ? {} : { task }), ...verdict };
  });
}

/** The entry of the execution or flow that was named and does not exist. */
export function missingChange({ kind }: Selection, missing: string | undefined): Change[] {
  if (missing === undefined) return [];
  const code = kind === "flow" ? "flow_not_found" : "execution_not_found";
  const noun = kind === "flow" ? "flow" : "execution";
  const text = `there is no such ${noun}: it was never created, or deleted after its retention`;
  return [{ target: missing, status: "failed", code, text }];
}

export function reportOf(
  { dry_run }: { readonly dry_run: boolean },
  changes: readonly Change[],
  next: string | undefined,
): ChangeReport {
  return { dry_run, changes: [...changes], ...(next === undefined ? {} : { next }) };
}

/** The verdict on an error of one execution. */
export function failure(error: unknown): Verdict {
  const code = error instanceof SluiceError ? { code: error.code } : {};
  return { status: "failed", text: messageOf(error), ...code };
}

/** Calls that change executions one by one, in flight at once. */
const CONCURRENCY = 20;

/** Changes each execution with calls of its own. An error is the verdict of its execution. */
export async function applyEach(
  executions: readonly ExecutionRecord[],
  apply: (execution: ExecutionRecord) => Promise<Verdict>,
): Promise<Verdict[]> {
  const verdicts: Verdict[] = [];
  const entries = executions.entries();
  const takers = Array.from({ length: CONCURRENCY }, async () => {
    for (const [at, execution] of entries) verdicts[at] = await apply(execution).catch(failure);
  });
  await Promise.all(takers);
  return verdicts;
}

/**
 * Changes executions with one call each, all in one pipeline. `verdictOf` gets the reply, and may throw. Executions whose
 * record has no usable lane fail.
 */
export async function callEach(
  { valkey, router }: OperateContext,
  executions: readonly ExecutionRecord[],
  commandOf: (target: Target, execution: ExecutionRecord) => ValkeyCommand,
  verdictOf: (reply: Reply, functionName: string) => Verdict,
): Promise<Verdict[]> {
  const calls = executions.flatMap((execution) => {
    const target = targetOf(router, execution);
    return target === undefined ? [] : [{ execution, command: commandOf(target, execution) }];
  });
  const replies = await valkey.pipelined(calls.map(({ command }) => command));
  const verdicts = new Map<ExecutionRecord, Verdict>();
  for (const { item, result } of pairResults(calls, replies, noResult)) {
    try {
      const reply = replyOrThrow(valueOrThrow(result));
      verdicts.set(item.execution, verdictOf(reply, String(item.command.args[0])));
    } catch (error) {
      verdicts.set(item.execution, failure(error));
    }
  }
  return executions.map(
    (one) => verdicts.get(one) ?? failure(new InvalidRecordError(`${one.keys.id} has no usable lane`)),
  );
}

/**
 * `npm start`, and `npm run local:aws` with another SQS: runs a workflow on this machine and shows its tasks.
 *
 * Exit status: 0 when every task has ended (failed ones included), 1 when some have not or the stack failed, 2 when the
 * arguments or the workflow are invalid, 130 after SIGINT and 143 after SIGTERM.
 */

import { DEFAULT_MAX_CASCADE_DEPTH } from "#functions/dispatch/config.ts";
import { parseOptions, type StartOptions } from "#local/options.ts";
import { ProgressLine } from "#local/progress.ts";
import { DEFAULT_QUEUE, queueServerFor } from "#local/queue-choice.ts";
import { runWorkflow } from "#local/run.ts";
import { startStack } from "#local/stack.ts";
import { describeSummary, describeWorkflow, incompleteReasons, summaryOf } from "#local/summary.ts";
import { paint, taskGraph } from "#local/task-graph.ts";
import { readWorkflowRun, type WorkflowRun } from "#local/workflow-file.ts";
import { graphText } from "#operate/graph/text.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import { ConfigurationError, messageOf } from "#shared/errors.ts";
import { listenForStop } from "#shared/runtime/stop-signals.ts";

const ERRORS_SHOWN = 10;

async function main(): Promise<number> {
  const parsed = parseOptions(
    process.argv.slice(2),
    (text) => process.stdout.write(text),
    (text) => process.stderr.write(text),
  );
  if (parsed.kind === "done") return parsed.exitCode;
  const stop = listenForStop();
  try {
    const workflowRun = await readWorkflowRun(parsed.options);
    return await run(workflowRun, parsed.options, stop.signal);
  } catch (error) {
    if (stop.signal.aborted) return stop.exitCode;
    process.stderr.write(`sluice: ${messageOf(error)}\n`);
    return error instanceof ConfigurationError ? 2 : 1;
  }
}

async function run(
  workflowRun: WorkflowRun,
  { json, sqs, runtime, dispatch }: StartOptions,
  signal: AbortSignal,
): Promise<number> {
  const output = json ? process.stderr : process.stdout;
  const progress = new ProgressLine(output);
  let errors = 0;
  const onError = (error: string) => {
    errors += 1;
    if (errors <= ERRORS_SHOWN) progress.note(`! ${error}`);
  };
  const maxCascadeDepth = readMaxCascadeDepth();
  const router = new PartitionRouter();
  const note = (line: string) => progress.note(line);
  for (const warning of workflowRun.warnings) note(`! ${warning}`);
  await using stack = await startStack({
    router,
    maxCascadeDepth,
    lanes: [...new Set(workflowRun.workflow.tasks.map(({ lane }) => lane))],
    onError,
    queueServer: () => queueServerFor(sqs, note),
    runtime,
    // Only this edition has groups of edges.
    ...(workflowRun.workflow.tasks.some(({ waitFor }) => waitFor !== undefined) ? { edition: 14 } : {}),
  });
  signal.throwIfAborted();
  if (sqs !== DEFAULT_QUEUE) note(`queue: ${stack.queue.description}`);
  const result = await runWorkflow(stack, router, { ...workflowRun, dispatch }, signal, {
    onProgress: (now) => progress.show(now),
    onError,
  });
  const { counts } = stack.poller;
  const summary = summaryOf(result, counts);
  const { workflow } = workflowRun;
  const tree = graphText(taskGraph(workflow, result.taskStates), hasColors(output) ? { paint } : {});
  for (const text of [describeWorkflow(workflow.name, summary), "", ...tree, "", describeSummary(summary)]) {
    note(text);
  }
  const isComplete = summary.unfinished === 0;
  if (!isComplete) {
    for (const reason of incompleteReasons(result, counts, maxCascadeDepth)) note(`! ${reason}`);
  }
  if (!isComplete || errors > 0) {
    stack.keepLog();
    note(`the functions' logs are in ${stack.logFile}`);
  }
  if (json) process.stdout.write(`${JSON.stringify(summary)}\n`);
  return isComplete ? 0 : 1;
}

/** https://no-color.org: any value but the empty string turns colors off. */
function hasColors(output: { readonly isTTY?: boolean }): boolean {
  return output.isTTY === true && (process.env.NO_COLOR ?? "") === "" && process.env.TERM !== "dumb";
}

function readMaxCascadeDepth(): number {
  const text = process.env.MAX_CASCADE_DEPTH ?? "";
  if (text === "") return DEFAULT_MAX_CASCADE_DEPTH;
  if (!/^\d{1,9}$/.test(text)) {
    throw new ConfigurationError([`MAX_CASCADE_DEPTH is "${text}": expected a whole number`]);
  }
  return Number(text);
}

process.exitCode = await main();

/**
 * `npm start`, and `npm run local:aws` on another SQS: runs a workflow to its end on this machine.
 *
 * Exit status: 0 when every execution has ended (failed ones included), 1 when some have not or the stack broke,
 * 2 when the arguments or the workflow are wrong, 130 and 143 after SIGINT and SIGTERM.
 */

import { DEFAULT_MAX_CASCADE_DEPTH } from "#functions/dispatch/config.ts";
import { parseOptions, type StartOptions } from "#local/options.ts";
import { ProgressLine } from "#local/progress.ts";
import { DEFAULT_QUEUE, queueServerFor } from "#local/queue-choice.ts";
import { runWorkflow } from "#local/run.ts";
import { startStack } from "#local/stack.ts";
import { describe, reasonsOf, summaryOf } from "#local/summary.ts";
import { type Assignment, readAssignment } from "#local/workflow-file.ts";
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
    const assignment = await readAssignment(parsed.options);
    return await run(assignment, parsed.options, stop.signal);
  } catch (error) {
    if (stop.signal.aborted) return stop.exitCode;
    process.stderr.write(`sluice: ${messageOf(error)}\n`);
    return error instanceof ConfigurationError ? 2 : 1;
  }
}

async function run(
  assignment: Assignment,
  { json, sqs, runtime }: StartOptions,
  signal: AbortSignal,
): Promise<number> {
  const output = json ? process.stderr : process.stdout;
  const progress = new ProgressLine(output);
  let errors = 0;
  const onError = (fault: string) => {
    errors += 1;
    if (errors <= ERRORS_SHOWN) progress.note(`  ! ${fault}`);
  };
  const maxCascadeDepth = readMaxCascadeDepth();
  const router = new PartitionRouter();
  const note = (line: string) => progress.note(line);
  await using stack = await startStack({
    router,
    maxCascadeDepth,
    onError,
    queueServer: () => queueServerFor(sqs, note),
    runtime,
  });
  signal.throwIfAborted();
  if (sqs !== DEFAULT_QUEUE) note(`queue: ${stack.queue.description}`);
  const result = await runWorkflow(stack, router, assignment, signal, {
    onProgress: (now) => progress.show(now),
    onError,
  });
  const { counts } = stack.poller;
  const summary = summaryOf(result, counts);
  progress.note(describe(assignment.workflow.name, summary));
  const isComplete = summary.unfinished === 0;
  if (!isComplete) {
    for (const reason of reasonsOf(result, counts, maxCascadeDepth)) progress.note(`  ! ${reason}`);
  }
  if (!isComplete || errors > 0) {
    stack.keepLog();
    progress.note(`  what the function wrote is in ${stack.logFile}`);
  }
  if (json) process.stdout.write(`${JSON.stringify(summary)}\n`);
  return isComplete ? 0 : 1;
}

function readMaxCascadeDepth(): number {
  const text = process.env.MAX_CASCADE_DEPTH ?? "";
  if (text === "") return DEFAULT_MAX_CASCADE_DEPTH;
  if (!/^\d{1,9}$/.test(text)) {
    throw new ConfigurationError([`MAX_CASCADE_DEPTH is "${text}": it takes a whole number`]);
  }
  return Number(text);
}

process.exitCode = await main();

import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { Argument, Option } from "commander";
import { z } from "zod";
import type { CliCommand, CommonOptions, Invocation } from "#cli/kit/command.ts";
import { plural, shellWord } from "#cli/kit/format.ts";
import { printResult } from "#cli/kit/output.ts";
import { reasonOf, requirePerson } from "#cli/kit/write-command.ts";
import { describeStates, watchFlow } from "#cli/watch.ts";
import { flowEntrySchema } from "#operate/flows/flow-entry.ts";
import { type Submitted, submit, submitted } from "#operate/write/submit.ts";
import { parseFlowId } from "#shared/contract/ids.ts";
import { ConfigurationError, InvalidRequestError, messageOf } from "#shared/errors.ts";

const { state, members } = flowEntrySchema.shape;
const watched = submitted.extend({
  end: z.object({ state, members }).optional().describe("How the flow ended. Only with `--watch`"),
});

export const submitCommand: CliCommand = {
  name: "submit",
  summary:
    "Submit a workflow, in Sluice's JSON or in WfFormat. Its first tasks can run as soon as all of it is stored.",
  arguments: [new Argument("<file>", "the workflow file (docs/workflows.md)")],
  options: [
    new Option(
      "--flow <id>",
      "the flow id, a UUID (default: a new one). Submitting the same file with the same id again completes it, and makes no second flow",
    ),
    new Option(
      "--watch",
      "show the states of its tasks until all have ended. Ctrl-C leaves the flow running",
    ),
  ],
  examples: [
    "submit examples/nightly-report.json --dry-run",
    "submit examples/nightly-report.json --watch --yes",
  ],
  exitOne:
    "with --watch, a task failed, expired or was cancelled; or the command failed, and names the flow id to repeat it",
  access: "write",
  output: watched,
  async execute(invocation) {
    const { args, options, terminal, connect } = invocation;
    if (options.yes !== true && options.dryRun !== true) requirePerson(terminal);
    const [file = ""] = args;
    const flow = flowIdOf(options);
    const request = { workflow: await readText(file), source: file, flow, reason: reasonOf(options) };
    const runner = await connect();
    const run = (isDryRun: boolean): Promise<Submitted> =>
      runner.run(submit, { ...request, dry_run: isDryRun });
    if (
      (options.dryRun === true || options.yes !== true) &&
      !(await mayContinue(invocation, await run(true)))
    ) {
      return 0;
    }
    const done = await run(false).catch((error: unknown) => {
      if (!isRefusal(error)) {
        // The answer may be lost, and the flow submitted. Only this id repeats the submission without a second flow.
        terminal.note(`sluice: it is safe to repeat: sluice submit ${shellWord(file)} --flow ${flow}`);
      }
      throw error;
    });
    if (options.watch !== true) {
      printResult(terminal, options, done, () => renderSubmitted(done));
      return 0;
    }
    for (const line of renderSubmitted(done)) terminal.note(line);
    const { state, members } = await watchFlow(runner, flow, invocation).catch((error: unknown) => {
      terminal.note(
        `sluice: the flow is not affected. Watch it again with: sluice submit ${shellWord(file)} --flow ${flow} --watch --yes`,
      );
      throw error;
    });
    printResult(terminal, options, { ...done, end: { state, members } }, () => [
      `${done.name} has ${state === "completed" ? "completed" : `ended: ${state}`}. ${describeStates({ members })}`,
      `see it with: sluice graph ${flow}`,
    ]);
    return state === "completed" ? 0 : 1;
  },
};

function isRefusal(error: unknown): boolean {
  return error instanceof InvalidRequestError || error instanceof ConfigurationError;
}

/** Prints the preview of a dry run, or asks. */
async function mayContinue({ options, terminal, signal }: Invocation, preview: Submitted): Promise<boolean> {
  if (options.dryRun === true) {
    printResult(terminal, options, preview, () => renderSubmitted(preview));
    return false;
  }
  for (const line of renderSubmitted(preview)) terminal.note(line);
  if (await terminal.confirm("Submit it?", signal)) return true;
  terminal.note("nothing was submitted");
  return false;
}

function renderSubmitted({
  dry_run: isDryRun,
  flow_id: flow,
  name,
  tasks,
  edges,
  lanes,
  warnings,
}: Submitted): string[] {
  const size = `${plural(tasks, "task")}, ${plural(edges, "edge")}`;
  const needed = lanes.map(({ lane, tasks: count }) => `${lane} (${plural(count, "task")})`);
  return [
    ...warnings.map((warning) => `! ${warning}`),
    isDryRun ? `dry run: ${name} is valid: ${size}` : `${name}: ${size}, flow ${flow}`,
    `needs workers of ${plural(lanes.length, "lane")}: ${needed.join(", ")}`,
    ...(isDryRun ? [] : [`see it with: sluice status ${flow}`]),
  ];
}

function flowIdOf({ flow }: CommonOptions): string {
  const id = parseFlowId(flow ?? randomUUID());
  if (id.ok) return id.value;
  throw new InvalidRequestError([`--flow: ${id.error.message}`]);
}

async function readText(file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    throw new InvalidRequestError([`the workflow cannot be read: ${messageOf(error)}`]);
  }
}

import { readFile } from "node:fs/promises";
import { relative } from "node:path";
import { fileURLToPath } from "node:url";
import type { StartOptions } from "#local/options.ts";
import { parseWorkflow } from "#sdk/submission/parse.ts";
import type { Workflow } from "#sdk/submission/workflow.ts";
import { ConfigurationError, messageOf } from "#shared/errors.ts";

const EXAMPLE = fileURLToPath(new URL("../examples/nightly-report.json", import.meta.url));
/** One data source of the example fails: the tasks that depend on it are skipped, the others run. */
const EXAMPLE_FAILS = ["fetch-weather"];

/** A workflow to run, and the tasks that fail in this run. */
export interface WorkflowRun {
  readonly workflow: Workflow;
  readonly failing: ReadonlySet<string>;
  /** What the user should know about the file. One line each. */
  readonly warnings: readonly string[];
}

/**
 * Reads the requested workflow, or the example. Throws a ConfigurationError that lists every problem: a file that cannot
 * be read or is not a workflow, or a `--fail` task that the workflow does not have.
 */
export async function readWorkflowRun({ workflow: file, fail }: StartOptions): Promise<WorkflowRun> {
  const path = file ?? EXAMPLE;
  const source = file ?? relative(process.cwd(), EXAMPLE);
  const parsed = parseWorkflow(await read(path), source);
  if (!parsed.ok) throw new ConfigurationError(parsed.errors);
  const failing = new Set(fail ?? (file === undefined ? EXAMPLE_FAILS : []));
  const known = new Set(parsed.value.tasks.map(({ id }) => id));
  const unknown = [...failing].filter((id) => !known.has(id));
  if (unknown.length > 0) {
    throw new ConfigurationError(
      unknown.map((id) => `--fail ${id}: ${source} has no task with that id${suggestion(id, known)}`),
    );
  }
  return { workflow: parsed.value, failing, warnings: parsed.warnings };
}

async function read(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    throw new ConfigurationError([`cannot read the workflow: ${messageOf(error)}`]);
  }
}

const SHOWN = 5;

function suggestion(id: string, known: ReadonlySet<string>): string {
  const similar = [...known].filter((task) => task.toLowerCase().startsWith(id.toLowerCase().slice(0, 3)));
  const shown = (similar.length > 0 ? similar : [...known]).slice(0, SHOWN);
  return `; it has, for example, ${shown.join(", ")}`;
}

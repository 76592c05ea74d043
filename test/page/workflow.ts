/** A workflow of 212 tasks, and what follows from its edges. */

import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseWorkflow } from "#sdk/submission/parse.ts";

/** Recorded runs, which `.ci/run` uses too. Their licence keeps them out of this repository. */
const RECORDED = fileURLToPath(
  new URL("../../../shared/workflows/airrflow-dirt02-001.json", import.meta.url),
);
const SAMPLES = 8;
const STEPS = 24;

export interface TestWorkflow {
  /** The text of the file. */
  readonly text: string;
  readonly tasks: readonly string[];
  readonly roots: readonly string[];
  /** All tasks that depend on a task, directly or not. */
  descendantsOf(task: string): Set<string>;
  childrenOf(task: string): readonly string[];
}

/** The recorded workflow if this machine has it, else one with its shape: the same number of tasks and levels. */
export function workflowOf212(): TestWorkflow {
  const text = existsSync(RECORDED) ? readFileSync(RECORDED, "utf8") : JSON.stringify(sequencing());
  const parsed = parseWorkflow(text, "workflow.json");
  if (!parsed.ok) throw new Error(parsed.errors.join("\n"));
  const { tasks, edges } = parsed.value;
  const children = Map.groupBy(edges, ({ from }) => from);
  const childrenOf = (task: string): string[] => (children.get(task) ?? []).map(({ to }) => to);
  const targets = new Set(edges.map(({ to }) => to));
  const ids = tasks.map(({ id }) => id);
  return {
    text,
    tasks: ids,
    roots: ids.filter((id) => !targets.has(id)),
    childrenOf,
    descendantsOf: (task) => {
      const found = new Set<string>();
      const open = [task];
      for (let next = open.pop(); next !== undefined; next = open.pop()) {
        for (const child of childrenOf(next)) if (!found.has(child)) open.push(child);
        if (next !== task) found.add(next);
      }
      return found;
    },
  };
}

/** Eight samples in 24 steps, with inputs that all need, checks of every sample, and reports at the end. */
function sequencing(): object {
  const samples = Array.from({ length: SAMPLES }, (_, index) => index + 1);
  const chains = samples.flatMap((sample) =>
    Array.from({ length: STEPS }, (_, step) => ({
      id: `pipeline.sample-${sample}.step-${step + 1}`,
      dependsOn: step === 0 ? ["pipeline.reference"] : [`pipeline.sample-${sample}.step-${step}`],
    })),
  );
  const checks = samples.map((sample) => ({
    id: `pipeline.check-${sample}`,
    dependsOn: [`pipeline.sample-${sample}.step-3`],
  }));
  const plots = samples.map((sample) => ({
    id: `pipeline.plot-${sample}`,
    dependsOn: [`pipeline.sample-${sample}.step-${STEPS}`, "pipeline.palette"],
  }));
  const all = [...checks, ...plots].map(({ id }) => id);
  return {
    name: "sequencing",
    tasks: [
      { id: "pipeline.reference" },
      { id: "pipeline.palette" },
      ...chains,
      ...checks,
      ...plots,
      { id: "pipeline.report", dependsOn: all },
      { id: "pipeline.mail", dependsOn: ["pipeline.report"] },
    ],
  };
}

import { Argument, Option } from "commander";
import { integer } from "#cli/kit/arguments.ts";
import { plural, time } from "#cli/kit/format.ts";
import { readCommand } from "#cli/kit/read-command.ts";
import { table } from "#cli/kit/table.ts";
import type { Style } from "#cli/kit/terminal.ts";
import type { Explanation } from "#operate/explain/explain.ts";
import { explain } from "#operate/read/explain.ts";

/** Edges and links of a chain that are shown to a person. */
const MAX_LINES = 20;

export const explainCommand = readCommand({
  name: "explain",
  summary: "Tell why an execution waits, was skipped or failed: every unmet condition, and what can be done.",
  operation: explain,
  arguments: [new Argument("[execution]", "the id of the execution, {fp:N}:<uuid>")],
  options: [
    new Option("--flow <flow>", "with --task, or the flow that an execution without a record should be in"),
    new Option("--task <task>", "the id of a task of the flow, in place of the id of the execution"),
    new Option("--edges <n>", "incoming edges to list, 1 to 1000").default(100).argParser(integer),
    new Option("--cursor <cursor>", "continue the list of edges after the last answer"),
  ],
  examples: [
    "explain '{fp:24}:550e8400-e29b-41d4-a716-446655440000'",
    "explain --flow 0f8c5f6e-54b7-4c0e-8d6c-1d8f2f0c9a11 --task write-report",
    "explain '{fp:24}:550e8400-e29b-41d4-a716-446655440000' --json",
  ],
  exitOne: "a cause is a problem",
  input: ([execution], { flow, task, edges, cursor }) => ({
    edges,
    ...(execution === undefined ? {} : { execution }),
    ...(task === undefined ? {} : { task }),
    ...(flow === undefined ? {} : { flow }),
    ...(cursor === undefined ? {} : { cursor }),
  }),
  exitCode: ({ causes }) => (causes.some(({ severity }) => severity === "problem") ? 1 : 0),
  render,
});

function render(explanation: Explanation, style: Style): string[] {
  return [
    ...head(explanation, style),
    ...causes(explanation, style),
    ...chain(explanation, style),
    ...edges(explanation, style),
    ...next(explanation, style),
  ];
}

function head({ execution_id, record }: Explanation, style: Style): string[] {
  if (record === undefined) return [style.bold(execution_id), "no record"];
  const facts = [
    record.public_state,
    `lane ${record.lane}`,
    `kind ${record.kind}`,
    ...(record.attempts > 0 ? [plural(record.attempts, "attempt")] : []),
    ...(record.changed_at === undefined ? [] : [`since ${time(record.changed_at)}`]),
  ];
  const flow = record.flow_name === "" ? record.flow_id : `${record.flow_name} (${record.flow_id})`;
  return [
    style.bold(record.task === "" ? execution_id : `${record.task}  ${execution_id}`),
    facts.join(", "),
    ...(record.flow_id === "" ? [] : [style.dim(`flow ${flow}`)]),
  ];
}

function causes(explanation: Explanation, style: Style): string[] {
  const { causes: found } = explanation;
  const tasks = tasksOf(explanation);
  if (found.length === 0) return ["", "Nothing holds it back."];
  const color = { problem: style.red, warning: style.yellow, info: style.cyan };
  return found.flatMap(({ code, severity, text, count, involved }) => {
    const executions = involved.executions ?? [];
    const shown = executions.slice(0, 3);
    const isNamed = shown.every((id) => text.includes(id));
    return [
      "",
      `${color[severity](`${severity}: ${code}`)}${count > 1 ? ` (${count.toLocaleString("en-US")})` : ""}`,
      ...wrap(text, style.columns, "  "),
      ...(isNamed
        ? []
        : shown.map((id) => style.dim(`    ${tasks.has(id) ? `${tasks.get(id)}  ` : ""}${id}`))),
      ...(isNamed || count <= shown.length
        ? []
        : [style.dim(`    and ${(count - shown.length).toLocaleString("en-US")} more`)]),
    ];
  });
}

/** The names of the executions that the answer names. */
function tasksOf({ edges: page, wait }: Explanation): ReadonlyMap<string, string> {
  const named = [
    ...(page?.items ?? []).map((edge) => [edge.upstream_execution_id, edge.upstream_task] as const),
    ...(wait?.chain ?? []).map((link) => [link.execution_id, link.task] as const),
  ];
  return new Map(named.filter(([, task]) => task !== ""));
}

function chain({ skip }: Explanation, style: Style): string[] {
  if (skip === undefined || skip.chain.length === 0) return [];
  const links = skip.chain.slice(0, MAX_LINES);
  const left = skip.chain.length - links.length;
  return [
    "",
    style.bold("The chain, from the skipped execution upwards"),
    ...links.map(({ execution_id, task, outcome, reason }) => {
      const end = outcome === "" ? "has no end any more" : outcome;
      return `  ← ${task === "" ? execution_id : `${task}  ${style.dim(execution_id)}`}  ${end}${reason === "" ? "" : `: ${reason}`}`;
    }),
    ...(left > 0 ? [style.dim(`  and ${plural(left, "more level")}: --json lists them`)] : []),
    ...(skip.is_complete ? [] : [style.dim("  the chain is longer, or a record of it is missing")]),
  ];
}

function edges({ edges: found }: Explanation, style: Style): string[] {
  if (found === undefined) return [];
  const shown = found.items.slice(0, MAX_LINES);
  const total = Math.max(found.staged, found.applied);
  return [
    "",
    style.bold(
      `Incoming edges: ${total.toLocaleString("en-US")}, ${found.unresolved.toLocaleString("en-US")} unresolved`,
    ),
    ...table([
      ["  upstream", "its state", "edge", "edge id"].map(style.dim),
      ...shown.map((edge) => [
        `  ${edge.upstream_task === "" ? edge.upstream_execution_id || "unknown" : edge.upstream_task}`,
        edge.upstream_state || "no record",
        edgeState(edge),
        style.dim(edge.edge_id),
      ]),
    ]),
    ...(shown.length < total
      ? [style.dim(`  ${shown.length} of ${total.toLocaleString("en-US")} edges; --json lists more`)]
      : []),
    ...(found.next === undefined ? [] : [style.dim(`  more: --cursor ${found.next}`)]),
  ];
}

function edgeState({
  is_staged,
  is_applied,
  state,
}: NonNullable<Explanation["edges"]>["items"][number]): string {
  if (!is_applied) return "not applied";
  return is_staged ? state : `${state}, not staged`;
}

function next({ next: commands }: Explanation, style: Style): string[] {
  if (commands.length === 0) return [];
  return ["", style.bold("Next"), ...commands.map((line) => `  ${line}`)];
}

/** Breaks a text into lines between words. */
function wrap(text: string, columns: number, indent: string): string[] {
  const width = Math.max(40, columns) - indent.length;
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && line.length + 1 + word.length > width) {
      lines.push(indent + line);
      line = word;
    } else {
      line = line === "" ? word : `${line} ${word}`;
    }
  }
  return [...lines, indent + line];
}

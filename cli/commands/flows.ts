import { InvalidArgumentError, Option } from "commander";
import { age, integer } from "#cli/kit/arguments.ts";
import { duration, plural, time } from "#cli/kit/format.ts";
import { readCommand } from "#cli/kit/read-command.ts";
import { table } from "#cli/kit/table.ts";
import type { Style } from "#cli/kit/terminal.ts";
import type { FlowEntry, StuckReason } from "#operate/flows/flow-entry.ts";
import { FLOW_STATES } from "#operate/flows/search-script.ts";
import { flows } from "#operate/read/flows.ts";

export const flowsCommand = readCommand({
  name: "flows",
  summary: "List and search flows, the newest first, with the number of their tasks in each state.",
  operation: flows,
  options: [
    new Option("--state <state>", "only flows in this state").choices([...FLOW_STATES]),
    new Option("--stuck", "only running flows in which nothing can move, or nothing has changed for long"),
    new Option("--name <text>", "only flows whose workflow's name has this text in it"),
    new Option(
      "--since <time>",
      "only flows created since: an age (90s, 15m, 2h, 3d) or a time (2026-05-04T03:00Z)",
    ).argParser(timeOrAge),
    new Option("--unchanged-for <age>", "a running flow without a change for so long is stuck")
      .default(3_600, "1h")
      .argParser(age),
    new Option("--limit <n>", "flows to show, 1 to 1000").default(50).argParser(integer),
    new Option("--cursor <cursor>", "continue after the last answer"),
  ],
  examples: ["flows", "flows --state failed --since 1d", "flows --stuck", "flows --name nightly --json"],
  exitOne: "a flow that is listed is stuck, or the command failed",
  input: (_, { state, stuck, name, since, unchangedFor, limit, cursor }) => ({
    stuck: stuck === true,
    name: name ?? "",
    created_since: since ?? 0,
    counts: true,
    unchanged_ms: Math.max(1, unchangedFor * 1_000),
    limit,
    ...(state === undefined ? {} : { state }),
    ...(cursor === undefined ? {} : { cursor }),
  }),
  // A page that ran out of time has fewer flows.
  collect: async (run, input) => {
    let answer = await run(input);
    const found = [...answer.flows];
    while (answer.next !== undefined && found.length < input.limit) {
      const { counts } = answer;
      answer = { ...(await run({ ...input, limit: input.limit - found.length, cursor: answer.next })) };
      if (counts !== undefined) answer.counts = counts;
      found.push(...answer.flows);
    }
    return { ...answer, flows: found };
  },
  render: ({ flows: found, counts, next }, style) => [
    ...(found.length === 0 ? ["no flow matches"] : table([heading(style), ...found.map(row(style))])),
    ...(counts === undefined ? [] : ["", style.dim(countsText(counts))]),
    ...(next === undefined ? [] : [style.dim(`more: sluice flows --cursor ${next} with the same options`)]),
  ],
  exitCode: ({ flows: found }) => (found.some(({ stuck }) => stuck !== undefined) ? 1 : 0),
});

/** Parses an age or a time. Returns milliseconds since the epoch. */
function timeOrAge(text: string): number {
  const at = Date.parse(text);
  if (/^\d{4}-/.test(text) && !Number.isNaN(at)) return Math.max(0, at);
  if (/^\d+[smhd]$/.test(text)) return Math.max(0, Date.now() - age(text) * 1_000);
  throw new InvalidArgumentError("Expected an age such as 2h, or a time such as 2026-05-04T03:00Z.");
}

const heading = (style: Style): string[] =>
  ["flow", "name", "created", "state", "tasks", "done", "failed", "skipped", "open", ""].map(style.dim);

export const STUCK_TEXTS: Readonly<Record<StuckReason, string>> = {
  nothing_can_move: "stuck: nothing can move",
  unchanged: "stuck: unchanged",
  submission_incomplete: "stuck: submission incomplete",
};

const row =
  (style: Style) =>
  ({ flow_id, name, created_at, changed_at, state, members, stuck }: FlowEntry): string[] => {
    const { total, completed, failed, expired, cancelled, skipped } = members;
    const open = total - completed - failed - expired - cancelled - skipped - members.unknown;
    const since =
      changed_at === undefined ? "" : ` for ${duration(Math.max(1_000, Date.now() - changed_at))}`;
    return [
      flow_id,
      name ?? "",
      time(created_at),
      stateText(state, style),
      ...[total, completed, failed + expired + cancelled, skipped, open].map(String),
      stuck === undefined ? "" : style.red(`${STUCK_TEXTS[stuck]}${since}`),
    ];
  };

export function stateText(state: FlowEntry["state"], style: Style): string {
  switch (state) {
    case "completed":
      return style.green(state);
    case "failed":
      return style.red(state);
    case "cancelled":
      return style.yellow(state);
    default:
      return style.cyan(state);
  }
}

type Counts = Readonly<Record<FlowEntry["state"] | "uncounted", number>>;

function countsText(counts: Counts): string {
  const total = Object.values(counts).reduce((sum, count) => sum + count, 0);
  const parts = (["running", "completed", "failed", "cancelled"] as const).map(
    (state) => `${counts[state].toLocaleString("en-US")} ${state}`,
  );
  if (counts.uncounted > 0) {
    parts.push(`${counts.uncounted.toLocaleString("en-US")} whose library keeps no counts`);
  }
  return `${plural(total, "flow")} in all states: ${parts.join(", ")}`;
}

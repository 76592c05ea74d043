import { Argument, Option } from "commander";
import type { z } from "zod";
import { STUCK_TEXTS, stateText } from "#cli/commands/flows.ts";
import { age } from "#cli/kit/arguments.ts";
import { duration, plural, time } from "#cli/kit/format.ts";
import { readCommand } from "#cli/kit/read-command.ts";
import { table } from "#cli/kit/table.ts";
import type { Style } from "#cli/kit/terminal.ts";
import type { StuckMemberReason } from "#operate/flows/stuck-members.ts";
import { status } from "#operate/read/status.ts";
import { PUBLIC_STATES } from "#shared/contract/record.ts";

type Status = z.infer<typeof status.output>;

export const statusCommand = readCommand({
  name: "status",
  summary: "Show one flow: its tasks by state, the ones that have waited longest, and what is stuck.",
  operation: status,
  arguments: [new Argument("<flow>", "the id of the flow")],
  options: [
    new Option("--unchanged-for <age>", "a flow without a change, or a task that no worker claims, is stuck")
      .default(3_600, "1h")
      .argParser(age),
  ],
  examples: ["status 550e8400-e29b-41d4-a716-446655440000"],
  exitOne: "the flow or one of its tasks is stuck, or the command failed",
  input: ([flow = ""], { unchangedFor }) => ({ flow, unchanged_ms: Math.max(1, unchangedFor * 1_000) }),
  render: (found, style) => [
    ...head(found, style),
    ...counts(found, style),
    ...oldest(found, style),
    ...stuck(found, style),
  ],
  exitCode: ({ stuck: why, stuck_member_count }) => (why !== undefined || stuck_member_count > 0 ? 1 : 0),
});

function head({ flow_id, name, state, created_at, ended_at, changed_at, stuck: why }: Status, style: Style) {
  const facts = [
    stateText(state, style),
    `created ${time(created_at)}`,
    ...(ended_at === undefined ? [] : [`ended ${time(ended_at)}`]),
    ...(changed_at === undefined ? [] : [`changed ${agoText(changed_at)}`]),
  ];
  return [
    style.bold(name === undefined ? flow_id : `${name}  ${flow_id}`),
    facts.join(", "),
    ...(why === undefined ? [] : [style.red(STUCK_TEXTS[why])]),
  ];
}

function counts({ members }: Status, style: Style): string[] {
  const rows = [...PUBLIC_STATES, "unknown" as const]
    .filter((state) => members[state] > 0)
    .map((state) => [state, members[state].toLocaleString("en-US")]);
  return [
    "",
    ...table([["state", "tasks"].map(style.dim), ...rows, ["total", members.total.toLocaleString("en-US")]]),
  ];
}

function oldest({ oldest: found }: Status, style: Style): string[] {
  if (found.length === 0) return [];
  const rows = found.map(({ state, task, execution_id, lane, since }) => [
    state,
    agoText(since),
    task,
    execution_id,
    lane,
  ]);
  return ["", ...table([["oldest", "since", "task", "execution", "lane"].map(style.dim), ...rows])];
}

const REASON_TEXTS: Readonly<Record<StuckMemberReason, string>> = {
  upstreams_ended: "waits for upstreams that have ended: its message is missing",
  lease_expired: "its worker lost the lease",
  delay_over: "its delay is over",
  unclaimed: "no worker claims it",
  suspended: "waits for a signal",
  no_record: "has no record",
};

function stuck(
  { stuck_members: found, stuck_member_count: all, unexamined }: Status,
  style: Style,
): string[] {
  const [first] = found;
  const rows = found.map(({ task, execution_id, since, reason }) => [
    style.red(REASON_TEXTS[reason]),
    since === 0 ? "" : agoText(since),
    task,
    execution_id,
  ]);
  return [
    ...(rows.length === 0
      ? []
      : ["", ...table([["stuck", "since", "task", "execution"].map(style.dim), ...rows])]),
    ...(all > found.length ? [style.dim(`and ${plural(all - found.length, "more task")}`)] : []),
    ...(unexamined === 0 ? [] : [style.dim(`${plural(unexamined, "blocked task")} not examined`)]),
    ...(first === undefined ? [] : ["", `why: sluice explain '${first.execution_id}'`]),
  ];
}

function agoText(at: number): string {
  return `${duration(Math.max(0, Date.now() - at))} ago`;
}

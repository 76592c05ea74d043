import { Argument, Option } from "commander";
import { duration, plural, shellWord, time } from "#cli/kit/format.ts";
import { readCommand } from "#cli/kit/read-command.ts";
import { table } from "#cli/kit/table.ts";
import type { Style } from "#cli/kit/terminal.ts";
import { writeCommand } from "#cli/kit/write-command.ts";
import { type LaneReport, lanes } from "#operate/read/lanes.ts";
import { pauseLanes, resumeLanes } from "#operate/write/pause-lanes.ts";

export const lanesCommand = readCommand({
  name: "lanes",
  summary: "Show what waits and runs in each lane, and which lanes no worker serves.",
  operation: lanes,
  options: [
    new Option("--lane <name>", "only this lane; repeatable").argParser(
      (name: string, previous: readonly string[] | undefined) => [...(previous ?? []), name],
    ),
    new Option("--cursor <lane>", "continue after this lane"),
  ],
  examples: ["lanes", "lanes --lane gpu --json"],
  exitOne: "executions wait in a lane that no worker serves, or the command failed",
  input: (_, { lane, cursor }) => ({
    limit: 50,
    ...(lane === undefined ? {} : { lanes: lane }),
    ...(cursor === undefined ? {} : { cursor }),
  }),
  render: ({ lanes: reports, read_at: readAt, next }, style) =>
    reports.length === 0
      ? ["no lane is in use"]
      : [
          ...table([HEAD.map(style.dim), ...reports.map((report) => rowOf(report, readAt, style))]),
          ...reports.flatMap((report) => notesOf(report, readAt)),
          ...(next === undefined ? [] : [style.dim(`more: sluice lanes --cursor ${shellWord(next)}`)]),
        ],
  exitCode: ({ lanes: reports }) => (reports.some(({ state }) => state === "not_served") ? 1 : 0),
});

const HEAD = [
  "lane",
  "state",
  "eligible",
  "oldest",
  "delayed",
  "blocked",
  "active",
  "expired",
  "queued",
  "last claim",
];

const STATES: Readonly<Record<LaneReport["state"], string>> = {
  paused: "paused",
  idle: "idle",
  served: "served",
  not_served: "NOT SERVED",
};

function rowOf(report: LaneReport, readAt: number, style: Style): string[] {
  const { state, oldest_eligible: oldest, ready_queue: queue, last_claim_at: claimedAt } = report;
  const colors = { paused: style.yellow, idle: style.dim, served: style.green, not_served: style.red };
  const count = (value: number): string => value.toLocaleString("en-US");
  return [
    report.lane,
    colors[state](STATES[state]),
    count(report.eligible),
    oldest === undefined ? "" : duration(readAt - oldest.eligible_at),
    count(report.delayed),
    count(report.blocked + report.blocked_otherwise),
    count(report.active),
    count(report.expired_leases),
    queue === undefined ? "" : count(queue.visible + queue.in_flight + queue.delayed),
    claimedAt === undefined ? "none" : `${duration(readAt - claimedAt)} ago`,
  ];
}

function notesOf(report: LaneReport, readAt: number): string[] {
  const { lane, state, oldest_eligible: oldest, paused, ready_queue_error: queueError } = report;
  const notes: string[] = [];
  if (state === "not_served") {
    const waiting = plural(report.eligible + report.expired_leases, "execution");
    const since = oldest === undefined ? "" : `, one for ${duration(readAt - oldest.eligible_at)}`;
    const next = oldest === undefined ? "" : `; sluice explain '${oldest.execution_id}'`;
    notes.push(`${lane}: no worker serves it. ${waiting} can be taken${since}. Start a worker${next}`);
  }
  if (paused !== undefined) {
    const at = paused.paused_at === undefined ? "" : ` since ${time(paused.paused_at)}`;
    const why = paused.reason === "" ? "" : `: ${paused.reason}`;
    notes.push(`${lane}: paused${at} by ${paused.actor || "an unknown operator"}${why}`);
  }
  if (report.delayed_due > 0) {
    notes.push(
      `${lane}: ${plural(report.delayed_due, "delay")} ended, and the reconciler has not acted on it`,
    );
  }
  if (queueError !== undefined) notes.push(`${lane}: its ready queue was not read: ${queueError}`);
  return notes;
}

const LANES = new Argument("<lanes...>", "names of lanes");

export const pauseLanesCommand = writeCommand({
  name: "lanes pause",
  summary: "Stop workers from beginning attempts in lanes. What runs goes on, and no message is lost.",
  operation: pauseLanes,
  arguments: [LANES],
  examples: ["lanes pause gpu --reason 'the image service is down'"],
  input: (names) => ({ lanes: [...names] }),
});

export const resumeLanesCommand = writeCommand({
  name: "lanes resume",
  summary: "Let workers take the executions of paused lanes again.",
  operation: resumeLanes,
  arguments: [LANES],
  examples: ["lanes resume gpu --yes"],
  input: (names) => ({ lanes: [...names] }),
});

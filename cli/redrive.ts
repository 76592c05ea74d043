import { Command } from "commander";
import type { CliCommand } from "#cli/kit/command.ts";
import { type RedriveOptions, redriveOptions, requestOf } from "#cli/redrive-options.ts";
import { functionRunner, localRunner, type Progress, replay, type SliceRunner } from "#cli/replay.ts";
import { SYSTEM_CLOCK } from "#shared/redrive/clock.ts";
import type { RedriveReport } from "#shared/redrive/report.ts";

const PROGRESS_INTERVAL_MS = 1_000;

export const redriveCommand: CliCommand = {
  name: "redrive",
  summary: "Replay dead letters: send them back to the completions queue. Ctrl-C stops cleanly.",
  options: redriveOptions(new Command()).options,
  examples: ["redrive --all", "redrive --error-code invalid_record --dry-run"],
  exitOne: "the replay is incomplete, or some messages failed",
  access: "local",
  async execute({ options: given, signal }) {
    const options = given as RedriveOptions;
    const request = requestOf(options);
    const report = await replay(runnerOf(options, signal, progressLines()), request, signal);
    for (const line of warningsOf(report)) process.stderr.write(`${line}\n`);
    if (options.json) {
      const { continuation: _, ...printed } = report;
      process.stdout.write(`${JSON.stringify(printed)}\n`);
    } else process.stdout.write(`${summaryOf(report)}\n`);
    return report.ended === "complete" && report.failed === 0 ? 0 : 1;
  },
};

function runnerOf(options: RedriveOptions, signal: AbortSignal, onProgress: Progress): SliceRunner {
  if (options.function !== undefined) return functionRunner(options.function, onProgress);
  const environment = {
    ...process.env,
    ...(options.from === undefined ? {} : { DEAD_LETTER_QUEUE_URL: options.from }),
    ...(options.to === undefined ? {} : { COMPLETIONS_QUEUE_URL: options.to }),
    ...(options.maxReplays === undefined ? {} : { MAX_REPLAYS: options.maxReplays }),
  };
  return localRunner(environment, signal, onProgress);
}

function progressLines(): Progress {
  let nextAt = 0;
  return (replayed, seen) => {
    const now = SYSTEM_CLOCK.now();
    if (now < nextAt) return;
    nextAt = now + PROGRESS_INTERVAL_MS;
    process.stderr.write(`${replayed} replayed of ${seen} seen\n`);
  };
}

/** Warnings for the operator, one per line. */
function warningsOf({ notes, over_limit: overLimit, over_limit_ids: ids }: RedriveReport): string[] {
  const more = overLimit > ids.length ? ", …" : "";
  return [
    ...notes.map((note) => `  ! ${note}`),
    ...(overLimit === 0
      ? []
      : [`  ! ${overLimit} messages are over the replay limit and stay: ${ids.join(", ")}${more}`]),
  ];
}

const END_TEXTS: Readonly<Record<RedriveReport["ended"], string>> = {
  complete: "complete",
  stopped: "stopped",
  slice: "incomplete",
  held_limit: "ended early: too many messages do not match; run again with a wider filter",
  failed: "failed",
};

function summaryOf(report: RedriveReport): string {
  const { seen, matching, replayed, kept, failed, over_limit: overLimit } = report;
  const done = report.dry_run ? `${matching} would be replayed (dry run)` : `${replayed} replayed`;
  return (
    `${END_TEXTS[report.ended]}: ${seen} seen, ${done}, ${kept} kept, ${overLimit} over the limit, ` +
    `${failed} failed`
  );
}

import { Command } from "commander";
import { SYSTEM_CLOCK } from "#shared/redrive/clock.ts";
import type { RedriveReport } from "#shared/redrive/report.ts";
import { type RedriveOptions, redriveOptions, requestOf } from "./redrive-options.ts";
import { byInvoking, inProcess, type Progress, replay, type SliceRunner } from "./replay.ts";

/** Milliseconds between two lines of progress. */
const PROGRESS_EVERY_MS = 1_000;

/** `sluice redrive`. `setExitCode` hears how it ended. */
export function redriveCommand(signal: AbortSignal, setExitCode: (code: 0 | 1) => void): Command {
  return redriveOptions(new Command("redrive"))
    .exitOverride()
    .action(async (options: RedriveOptions) => {
      const request = requestOf(options);
      const report = await replay(runnerOf(options, signal, progressLines()), request, signal);
      for (const line of describe(report)) process.stderr.write(`${line}\n`);
      if (options.json) {
        const { continuation: _, ...said } = report;
        process.stdout.write(`${JSON.stringify(said)}\n`);
      } else process.stdout.write(`${summaryOf(report)}\n`);
      setExitCode(report.ended === "complete" && report.failed === 0 ? 0 : 1);
    });
}

function runnerOf(options: RedriveOptions, signal: AbortSignal, onProgress: Progress): SliceRunner {
  if (options.function !== undefined) return byInvoking(options.function, onProgress);
  const environment = {
    ...process.env,
    ...(options.from === undefined ? {} : { DEAD_LETTER_QUEUE_URL: options.from }),
    ...(options.to === undefined ? {} : { COMPLETIONS_QUEUE_URL: options.to }),
    ...(options.maxReplays === undefined ? {} : { MAX_REPLAYS: options.maxReplays }),
  };
  return inProcess(environment, signal, onProgress);
}

function progressLines(): Progress {
  let nextAt = 0;
  return (replayed, seen) => {
    const now = SYSTEM_CLOCK.now();
    if (now < nextAt) return;
    nextAt = now + PROGRESS_EVERY_MS;
    process.stderr.write(`${replayed} replayed of ${seen} seen\n`);
  };
}

/** What an operator has to know besides the figures. */
function describe({ notes, over_limit: overLimit, over_limit_ids: ids }: RedriveReport): string[] {
  const more = overLimit > ids.length ? ", …" : "";
  return [
    ...notes.map((note) => `  ! ${note}`),
    ...(overLimit === 0
      ? []
      : [`  ! ${overLimit} messages were replayed too often and stay: ${ids.join(", ")}${more}`]),
  ];
}

const SAID: Readonly<Record<RedriveReport["ended"], string>> = {
  complete: "complete",
  stopped: "stopped",
  slice: "not finished",
  held_limit: "ended before the queue did; run it again with a narrower filter",
  failed: "given up",
};

function summaryOf(report: RedriveReport): string {
  const { seen, matching, replayed, kept, failed, over_limit: overLimit } = report;
  const done = report.dry_run ? `${matching} would be replayed (dry run)` : `${replayed} replayed`;
  return (
    `${SAID[report.ended]}: ${seen} seen, ${done}, ${kept} kept, ${overLimit} over the limit, ` +
    `${failed} failed`
  );
}

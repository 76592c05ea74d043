/**
 * `npm run test:faults`: injects faults, and checks that nothing is lost, wrongly skipped or duplicated.
 *
 * The last line of standard output is JSON: `cases`, `lost`, `wrongly_skipped`, `duplicated`, `inconsistent`, `seconds`. Exit
 * status: 0 if the four counts are 0, every case was run and, without `--only` and `--cases`, every injection point was
 * reached; 1 if not; 2 if the arguments are wrong; 130 and 143 after SIGINT and SIGTERM.
 */

import { listenForStop } from "#shared/runtime/stop-signals.ts";
import { KINDS } from "#test/faults/kinds.ts";
import { parseOptions } from "#test/faults/options.ts";
import { runCases } from "#test/faults/runner.ts";
import { missedPoints, missedSweepPoints } from "#test/faults/steps.ts";
import { missedWorkerPoints } from "#test/faults/worker-steps.ts";

const SEEDS = 900_000_000;

async function main(): Promise<number> {
  const parsed = parseOptions(
    process.argv.slice(2),
    KINDS.map(({ name }) => name),
    () => 1 + Math.floor(Math.random() * SEEDS),
    { out: (text) => process.stdout.write(text), err: (text) => process.stderr.write(text) },
  );
  if (parsed.kind === "done") return parsed.exitCode;
  const { scale, seed, only, cases } = parsed.options;
  const log = (line: string) => process.stderr.write(`${line}\n`);
  const stop = listenForStop();
  const startedAt = performance.now();
  log(`seed ${seed}`);
  const totals = await runCases({
    kinds: KINDS.filter(({ name }) => only.includes(name)),
    casesOf: (kind) => cases ?? kind.cases[scale],
    seed,
    signal: stop.signal,
    log,
  });
  const seconds = Math.round((performance.now() - startedAt) / 100) / 10;
  const { lost, wronglySkipped, duplicated, inconsistent, notRun } = totals;
  if (notRun > 0) log(`${notRun} cases could not be run`);
  const isComplete = only.length === KINDS.length && cases === undefined && !stop.signal.aborted;
  const missed = isComplete
    ? [
        ...missedPoints(totals.reached),
        ...missedSweepPoints(totals.reached),
        ...missedWorkerPoints(totals.reached),
      ]
    : [];
  if (missed.length > 0) log(`no case reached: ${missed.join(", ")}`);
  const summary = {
    cases: totals.cases,
    lost,
    wrongly_skipped: wronglySkipped,
    duplicated,
    inconsistent,
    seconds,
  };
  process.stdout.write(`${JSON.stringify(summary)}\n`);
  if (stop.signal.aborted) return stop.exitCode;
  return lost + wronglySkipped + duplicated + inconsistent + notRun + missed.length === 0 ? 0 : 1;
}

process.exitCode = await main();

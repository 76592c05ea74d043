/**
 * `npm run test:faults`: breaks things, and shows that nothing is lost, wrongly skipped or duplicated.
 *
 * The last line of standard output is JSON: `cases`, `lost`, `wrongly_skipped`, `duplicated`, `seconds`. Exit status:
 * 0 when the three counts are 0 and every case was run, 1 when not, 2 when the arguments are wrong, 130 and 143 after
 * SIGINT and SIGTERM.
 */

import { listenForStop } from "#shared/runtime/stop-signals.ts";
import { KINDS } from "#test/faults/kinds.ts";
import { parseOptions } from "#test/faults/options.ts";
import { runCases } from "#test/faults/runner.ts";

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
  const say = (line: string) => process.stderr.write(`${line}\n`);
  const stop = listenForStop();
  const begunAt = performance.now();
  say(`seed ${seed}`);
  const totals = await runCases({
    kinds: KINDS.filter(({ name }) => only.includes(name)),
    casesOf: (kind) => cases ?? kind.cases[scale],
    seed,
    signal: stop.signal,
    say,
  });
  const seconds = Math.round((performance.now() - begunAt) / 100) / 10;
  const { lost, wronglySkipped, duplicated, broken } = totals;
  if (broken > 0) say(`${broken} cases could not be run`);
  const summary = { cases: totals.cases, lost, wrongly_skipped: wronglySkipped, duplicated, seconds };
  process.stdout.write(`${JSON.stringify(summary)}\n`);
  if (stop.signal.aborted) return stop.exitCode;
  return lost + wronglySkipped + duplicated + broken === 0 ? 0 : 1;
}

process.exitCode = await main();

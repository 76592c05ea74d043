/**
 * `npm run test:soak`: 5,000 executions in 200 flows, with workers that are killed at random and completions that are lost.
 * The last line of standard output is JSON: the counts, and the numbers of findings. Exit status: 0 if there are no
 * findings, 1 if there are, 2 if the arguments are wrong.
 */

import { Command, InvalidArgumentError } from "commander";
import { parseArguments } from "#local/command-line.ts";
import { isClean } from "#test/faults/findings.ts";
import { Random } from "#test/faults/random.ts";
import { type SoakSize, soak, startSoakBed } from "#test/faults/soak.ts";

function positive(text: string): number {
  const value = /^\d{1,7}$/.test(text) ? Number(text) : 0;
  if (value > 0) return value;
  throw new InvalidArgumentError("Expected a positive integer.");
}

async function main(): Promise<number> {
  const command = new Command("npm run test:soak --")
    .description("Runs many flows with workers that die, and checks that all of them end as they should.")
    .option("--flows <number>", "number of flows", positive, 200)
    .option("--executions <number>", "number of executions in all flows", positive, 5_000)
    .option("--workers <number>", "worker processes at the same time", positive, 3)
    .option("--poison <number>", "flows with a task that kills its workers", positive, 3)
    .option("--seed <number>", "seed of the flows", positive, 1 + Math.floor(Math.random() * 9_999_999));
  const exitCode = parseArguments(
    command,
    process.argv.slice(2),
    (text) => process.stdout.write(text),
    (text) => process.stderr.write(text),
  );
  if (exitCode !== undefined) return exitCode;
  const { seed, ...size } = command.opts<SoakSize & { readonly seed: number }>();
  process.stderr.write(`seed ${seed}\n`);
  await using bed = await startSoakBed();
  const { findings, counts } = await soak(bed, new Random(seed), size);
  const { lost, wronglySkipped, duplicated, inconsistent } = findings;
  for (const [kind, list] of Object.entries(findings)) {
    for (const finding of list) process.stderr.write(`${kind}: ${finding}\n`);
  }
  const summary = {
    flows: size.flows,
    executions: size.executions,
    ...counts,
    lost: lost.length,
    wrongly_skipped: wronglySkipped.length,
    duplicated: duplicated.length,
    inconsistent: inconsistent.length,
  };
  process.stdout.write(`${JSON.stringify(summary)}\n`);
  return isClean(findings) ? 0 : 1;
}

process.exitCode = await main();

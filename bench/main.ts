/**
 * `npm run bench`: runs the benchmarks, and prints what each one measures, what it does not show, and the machine.
 *
 * Exit status: 0 when all end states were correct, even if a goal is not met, 1 when an end state or a number of round
 * trips was wrong or a benchmark failed, 2 when the arguments are invalid.
 */

import { cpus, release, type } from "node:os";
import { ALL } from "#bench/all.ts";
import type { BenchContext } from "#bench/benchmark.ts";
import { loadBuiltCore } from "#bench/built-core.ts";
import { type BenchOptions, parseOptions } from "#bench/options.ts";
import {
  describeGoals,
  describeMachine,
  describeResult,
  jsonOf,
  type Machine,
  type Result,
} from "#bench/report.ts";
import { BenchServer } from "#bench/server.ts";
import { messageOf } from "#shared/errors.ts";

async function main(): Promise<number> {
  const parsed = parseOptions(
    process.argv.slice(2),
    ALL.map(({ name }) => name),
  );
  if (parsed.kind === "done") return parsed.exitCode;
  try {
    await run(parsed.options);
    return 0;
  } catch (error) {
    process.stderr.write(`bench: ${error instanceof Error ? error.stack : messageOf(error)}\n`);
    return 1;
  }
}

async function run({ only, quick, json }: BenchOptions): Promise<void> {
  const write = (text: string) => (json ? process.stderr : process.stdout).write(`${text}\n`);
  const machine = await describeThis();
  write(describeMachine(machine));
  const core = await loadBuiltCore();
  const results: Result[] = [];
  for (const { name, measured, notShown, run } of ALL) {
    if (only.length > 0 && !only.includes(name)) continue;
    const context: BenchContext = {
      core,
      quick,
      note: (text) => process.stderr.write(`${name}: ${text}\n`),
    };
    const begun = performance.now();
    const rows = await run(context);
    const seconds = (performance.now() - begun) / 1_000;
    const result = { name, measured, not_shown: notShown, seconds, rows };
    results.push(result);
    write(`\n${describeResult(result)}`);
  }
  write(`\n${describeGoals(results)}`);
  if (json) process.stdout.write(`${jsonOf(machine, results)}\n`);
}

async function describeThis(): Promise<Machine> {
  await using server = await BenchServer.start();
  const processors = cpus();
  return {
    cores: processors.length,
    cpu: processors[0]?.model ?? "unknown",
    node: process.versions.node,
    valkey: await server.version(),
    platform: `${type()} ${release()} ${process.arch}`,
  };
}

process.exitCode = await main();

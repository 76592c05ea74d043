/** Runs the cases, several at a time, and adds up what they found. */

import { messageOf } from "#shared/errors.ts";
import type { Kind } from "#test/faults/case.ts";
import { type Findings, isClean } from "#test/faults/judge.ts";
import { Random } from "#test/faults/random.ts";
import type { Rig } from "#test/faults/rig.ts";

export interface Totals {
  cases: number;
  lost: number;
  wronglySkipped: number;
  duplicated: number;
  /** Cases that could not be run. */
  broken: number;
}

/** Some cases of one kind, which share a rig. */
interface Job {
  readonly kind: Kind;
  readonly seeds: readonly number[];
}

export interface RunOptions {
  readonly kinds: readonly Kind[];
  readonly casesOf: (kind: Kind) => number;
  /** The first case's seed, of each kind. */
  readonly seed: number;
  /** Begins no case any more once it aborts. */
  readonly signal: AbortSignal;
  readonly say: (line: string) => void;
}

/** As many as a small machine has processors: most cases wait for their own processes. */
const LANES = 2;
const CASES_PER_JOB = 10;
const CASE_DEADLINE_MS = 300_000;
const LOG_LINES_SHOWN = 15;

export async function runCases(options: RunOptions): Promise<Totals> {
  const totals: Totals = { cases: 0, lost: 0, wronglySkipped: 0, duplicated: 0, broken: 0 };
  const jobs = jobsOf(options).values();
  const lanes = Array.from({ length: LANES }, async () => {
    for (const job of jobs) {
      if (options.signal.aborted) return;
      await runJob(job, options, totals);
    }
  });
  await Promise.all(lanes);
  return totals;
}

function jobsOf({ kinds, casesOf, seed }: RunOptions): Job[] {
  return kinds.flatMap((kind) => {
    const seeds = Array.from({ length: casesOf(kind) }, (_, number) => seed + number);
    const jobs: Job[] = [];
    for (let start = 0; start < seeds.length; start += CASES_PER_JOB) {
      jobs.push({ kind, seeds: seeds.slice(start, start + CASES_PER_JOB) });
    }
    return jobs;
  });
}

async function runJob({ kind, seeds }: Job, { signal, say }: RunOptions, totals: Totals): Promise<void> {
  const begunAt = performance.now();
  let rig: Rig | undefined;
  let faulty = 0;
  let run = 0;
  try {
    for (const seed of seeds) {
      if (signal.aborted) break;
      run += 1;
      totals.cases += 1;
      let report: string[];
      try {
        rig ??= await kind.rig();
        rig.log.length = 0;
        report = add(totals, await runCase(kind, rig, seed));
      } catch (error) {
        totals.broken += 1;
        report = [`could not be run: ${messageOf(error)}`];
      }
      if (report.length > 0) {
        faulty += 1;
        tell(say, kind, seed, [...report, ...(rig?.log.slice(-LOG_LINES_SHOWN) ?? [])]);
      }
      // Whatever a case has left behind must not be taken for the next one's.
      if (report.length > 0 || kind.isRigPerCase) {
        await rig?.[Symbol.asyncDispose]();
        rig = undefined;
      }
    }
  } finally {
    await rig?.[Symbol.asyncDispose]();
  }
  const seconds = ((performance.now() - begunAt) / 1_000).toFixed(1);
  const count = faulty === 0 ? "" : `, ${faulty} of them went wrong`;
  say(`${faulty === 0 ? "ok  " : "FAIL"} ${kind.name.padEnd(11)} ${run} cases in ${seconds} s${count}`);
}

async function runCase(kind: Kind, rig: Rig, seed: number): Promise<Findings> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error("the case did not come to its end")), CASE_DEADLINE_MS);
  try {
    return await Promise.race([kind.run({ rig, random: new Random(seed), number: seed }), late]);
  } finally {
    clearTimeout(timer);
  }
}

function add(totals: Totals, findings: Findings): string[] {
  if (isClean(findings)) return [];
  totals.lost += findings.lost.length;
  totals.wronglySkipped += findings.wronglySkipped.length;
  totals.duplicated += findings.duplicated.length;
  return [
    ...findings.lost.map((what) => `lost: ${what}`),
    ...findings.wronglySkipped.map((what) => `wrongly skipped: ${what}`),
    ...findings.duplicated.map((what) => `duplicated: ${what}`),
  ];
}

function tell(say: (line: string) => void, kind: Kind, seed: number, lines: readonly string[]): void {
  say(`FAIL ${kind.name}, seed ${seed}; to repeat it:`);
  say(`       npm run test:faults -- --only ${kind.name} --seed ${seed} --cases 1`);
  for (const line of lines) say(`       ${line}`);
}

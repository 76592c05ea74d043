/** Runs the cases, several at a time, and adds up their findings. */

import { messageOf } from "#shared/errors.ts";
import { type FaultKind, UnsuitableCaseError } from "#test/faults/case.ts";
import { type Findings, isClean } from "#test/faults/findings.ts";
import { Random } from "#test/faults/random.ts";
import type { TestBed } from "#test/faults/test-bed.ts";

export interface Totals {
  cases: number;
  lost: number;
  wronglySkipped: number;
  duplicated: number;
  inconsistent: number;
  /** Cases that could not be run. */
  notRun: number;
  /** The injection points at which at least one case injected its fault. */
  readonly reached: Set<string>;
}

/** Some cases of one kind, which share a test bed. */
interface Job {
  readonly kind: FaultKind;
  readonly seeds: readonly number[];
}

export interface RunOptions {
  readonly kinds: readonly FaultKind[];
  readonly casesOf: (kind: FaultKind) => number;
  /** The seed of the first case of each kind. */
  readonly seed: number;
  /** Once it aborts, no further case is started. */
  readonly signal: AbortSignal;
  readonly log: (line: string) => void;
}

/** As many as a small machine has cores: most cases wait for their own processes. */
const CONCURRENT_JOBS = 2;
const CASES_PER_JOB = 10;
/** How often a case is drawn from its seed before it counts as not run. */
const MAX_DRAWS = 10;
const CASE_TIMEOUT_MS = 300_000;
const LOG_LINES_SHOWN = 15;
const MAX_LINES_SHOWN = 60;

export async function runCases(options: RunOptions): Promise<Totals> {
  const totals: Totals = {
    cases: 0,
    lost: 0,
    wronglySkipped: 0,
    duplicated: 0,
    inconsistent: 0,
    notRun: 0,
    reached: new Set(),
  };
  const jobs = jobsOf(options).values();
  const runners = Array.from({ length: CONCURRENT_JOBS }, async () => {
    for (const job of jobs) {
      if (options.signal.aborted) return;
      await runJob(job, options, totals);
    }
  });
  await Promise.all(runners);
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

async function runJob({ kind, seeds }: Job, { signal, log }: RunOptions, totals: Totals): Promise<void> {
  const startedAt = performance.now();
  let bed: TestBed | undefined;
  let failed = 0;
  let run = 0;
  try {
    for (const seed of seeds) {
      if (signal.aborted) break;
      run += 1;
      totals.cases += 1;
      let report: string[];
      try {
        bed ??= await kind.startTestBed();
        bed.log.length = 0;
        report = add(totals, await runCase(kind, bed, seed, totals, log));
      } catch (error) {
        totals.notRun += 1;
        report = [`could not be run: ${messageOf(error)}`];
      }
      if (report.length > 0) {
        failed += 1;
        logFailure(log, kind, seed, [...report, ...(bed?.log.slice(-LOG_LINES_SHOWN) ?? [])]);
      }
      // A failed case may leave messages behind that the next case would receive.
      if (report.length > 0 || kind.isTestBedPerCase) {
        await bed?.[Symbol.asyncDispose]();
        bed = undefined;
      }
    }
  } finally {
    await bed?.[Symbol.asyncDispose]();
  }
  const seconds = ((performance.now() - startedAt) / 1_000).toFixed(1);
  const count = failed === 0 ? "" : `, ${failed} failed`;
  log(`${failed === 0 ? "ok  " : "FAIL"} ${kind.name.padEnd(11)} ${run} cases in ${seconds} s${count}`);
}

/** Runs a case. Draws it again from the same seed while the drawn case is unsuitable. */
async function runCase(
  kind: FaultKind,
  bed: TestBed,
  seed: number,
  { reached }: Pick<Totals, "reached">,
  log: RunOptions["log"],
): Promise<Findings> {
  for (let draw = 0; ; draw += 1) {
    const random = new Random(seed, draw);
    const run = kind.run({
      bed,
      random,
      number: seed,
      onReached: (point) => reached.add(point),
      report: (line) => log(`     ${kind.name}, seed ${seed}: ${line}`),
    });
    try {
      return await withTimeout(withInconsistencies(run, bed));
    } catch (error) {
      if (!(error instanceof UnsuitableCaseError) || draw + 1 === MAX_DRAWS) throw error;
      log(`     ${kind.name}, seed ${seed}: ${error.message}; drawing the case again`);
    }
  }
}

/** Adds what the case left inconsistent in Valkey. The flows of earlier cases on the same test bed are checked again. */
async function withInconsistencies(run: Promise<Findings>, bed: TestBed): Promise<Findings> {
  const findings = await run;
  return { ...findings, inconsistent: [...findings.inconsistent, ...(await bed.inconsistencies())] };
}

async function withTimeout<T>(run: Promise<T>): Promise<T> {
  const { promise: timeout, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => reject(new Error(`the case did not end within ${CASE_TIMEOUT_MS / 1_000} s`)),
    CASE_TIMEOUT_MS,
  );
  try {
    return await Promise.race([run, timeout]);
  } finally {
    clearTimeout(timer);
  }
}

function add(totals: Totals, findings: Findings): string[] {
  if (isClean(findings)) return [];
  totals.lost += findings.lost.length;
  totals.wronglySkipped += findings.wronglySkipped.length;
  totals.duplicated += findings.duplicated.length;
  totals.inconsistent += findings.inconsistent.length;
  return [
    ...findings.lost.map((what) => `lost: ${what}`),
    ...findings.wronglySkipped.map((what) => `wrongly skipped: ${what}`),
    ...findings.duplicated.map((what) => `duplicated: ${what}`),
    ...findings.inconsistent.map((what) => `inconsistent: ${what}`),
  ];
}

function logFailure(log: RunOptions["log"], kind: FaultKind, seed: number, lines: readonly string[]): void {
  log(`FAIL ${kind.name}, seed ${seed}; to reproduce:`);
  log(`       npm run test:faults -- --only ${kind.name} --seed ${seed} --cases 1`);
  for (const line of lines.slice(0, MAX_LINES_SHOWN)) log(`       ${line}`);
  if (lines.length > MAX_LINES_SHOWN) log(`       and ${lines.length - MAX_LINES_SHOWN} more lines`);
}

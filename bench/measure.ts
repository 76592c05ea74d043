/** Time measurement: medians of alternating runs, so that other load on the machine affects all sides equally. */

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((left, right) => left - right);
  const middle = sorted.length / 2;
  const upper = sorted[Math.floor(middle)];
  if (upper === undefined) throw new RangeError("the median of no values");
  const lower = Number.isInteger(middle) ? (sorted[middle - 1] ?? upper) : upper;
  return (lower + upper) / 2;
}

/** The duration of a run in milliseconds. */
export async function timed(run: () => Promise<unknown>): Promise<number> {
  const begun = performance.now();
  await run();
  return performance.now() - begun;
}

/** One measurement. */
export type Side = () => Promise<number>;

/**
 * Runs every side once per round, in reverse order in every second round. Returns for each side the median of its rounds, or
 * what `summarize` returns. A warm-up round is discarded.
 */
export async function alternate<Name extends string>(
  rounds: number,
  sides: Readonly<Record<Name, Side>>,
  summarize: (values: readonly number[]) => number = median,
): Promise<Record<Name, number>> {
  const names = Object.keys(sides) as Name[];
  const figures = new Map<Name, number[]>(names.map((name) => [name, []]));
  for (let round = 0; round <= rounds; round += 1) {
    for (const name of round % 2 === 0 ? names : names.toReversed()) {
      const figure = await sides[name]();
      if (round > 0) figures.get(name)?.push(figure);
    }
  }
  const summaries = {} as Record<Name, number>;
  for (const [name, values] of figures) summaries[name] = summarize(values);
  return summaries;
}

/** The slope of a least-squares line through the values, per step. */
export function slope(values: readonly number[]): number {
  const centre = (values.length - 1) / 2;
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  let covariance = 0;
  let variance = 0;
  for (const [step, value] of values.entries()) {
    covariance += (step - centre) * (value - mean);
    variance += (step - centre) ** 2;
  }
  return variance === 0 ? 0 : covariance / variance;
}

/** The results of benchmarks, as text and as JSON. */

/** A goal and whether this run met it. */
export interface Goal {
  readonly goal: string;
  readonly value: number;
  readonly met: boolean;
}

/** One measured case. The name of a figure ends in its unit, or names its ratio. */
export interface Row {
  readonly what: string;
  readonly figures: Readonly<Record<string, number>>;
  readonly goals?: readonly Goal[];
}

export interface Result {
  readonly name: string;
  readonly measured: string;
  readonly not_shown: string;
  readonly seconds: number;
  readonly rows: readonly Row[];
}

export interface Machine {
  readonly cores: number;
  readonly cpu: string;
  readonly node: string;
  readonly valkey: string;
  readonly platform: string;
}

export function atLeast(goal: string, value: number, min: number): Goal {
  return { goal, value: rounded(value), met: value >= min };
}

export function atMost(goal: string, value: number, max: number): Goal {
  return { goal, value: rounded(value), met: value <= max };
}

/** Rounds to three significant digits; more would be noise. */
function rounded(value: number): number {
  return Math.abs(value) >= 100 ? Math.round(value) : Number(value.toPrecision(3));
}

/** A result as text. */
export function describeResult({ name, measured, not_shown, seconds, rows }: Result): string {
  const width = Math.max(...rows.map(({ what }) => what.length));
  const lines = rows.flatMap(({ what, figures, goals = [] }) => [
    `  ${what.padEnd(width)}  ${Object.entries(figures)
      .map(([figure, value]) => `${figure} ${rounded(value)}`)
      .join("  ")}`,
    ...goals.map(
      ({ goal, value, met }) => `  ${" ".repeat(width)}  ${met ? "met    " : "NOT MET"}  ${goal} (${value})`,
    ),
  ]);
  return [
    `${name} (${seconds.toFixed(1)} s)`,
    `  measured:  ${measured}`,
    `  not shown: ${not_shown}`,
    ...lines,
  ].join("\n");
}

export function describeMachine({ cores, cpu, node, valkey, platform }: Machine): string {
  return `${cores} cores (${cpu}), ${platform}, Node ${node}, Valkey ${valkey}, everything over loopback`;
}

/** The number of goals that are met, and a list of those that are not. */
export function describeGoals(results: readonly Result[]): string {
  const goals = results.flatMap(({ name, rows }) =>
    rows.flatMap(({ what, goals = [] }) => goals.map((goal) => ({ name, what, ...goal }))),
  );
  if (goals.length === 0) return "a quick run has no goals";
  const missed = goals.filter(({ met }) => !met);
  const list = missed.map(({ name, what, goal, value }) => `  ${name}, ${what}: ${goal} (${value})`);
  return [`${goals.length - missed.length} of ${goals.length} goals met`, ...list].join("\n");
}

/** Null if there are no goals. */
function metOf(rows: readonly Row[]): boolean | null {
  const goals = rows.flatMap(({ goals = [] }) => goals);
  return goals.length === 0 ? null : goals.every(({ met }) => met);
}

/** One JSON object with a key per benchmark, and `machine`. Other programs read it: do not rename its fields. */
export function jsonOf(machine: Machine, results: readonly Result[]): string {
  const byName = results.map(({ name, rows, ...rest }) => [
    name,
    {
      ...rest,
      seconds: rounded(rest.seconds),
      rows: rows.map(({ what, figures, goals = [] }) => ({
        what,
        ...Object.fromEntries(Object.entries(figures).map(([figure, value]) => [figure, rounded(value)])),
        goals,
      })),
      met: metOf(rows),
    },
  ]);
  return JSON.stringify({ machine, ...Object.fromEntries(byName) });
}

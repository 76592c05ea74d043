/** Numbers and times in texts for a person. */

const UNITS = [
  ["d", 86_400_000],
  ["h", 3_600_000],
  ["min", 60_000],
  ["s", 1_000],
] as const;

/** A duration in its two largest units: `3 d 4 h`, `12 min 5 s`, `80 ms`. */
export function duration(ms: number): string {
  if (ms < 1_000) return `${Math.max(0, Math.round(ms))} ms`;
  const first = UNITS.findIndex(([, size]) => ms >= size);
  let rest = ms;
  return UNITS.slice(first, first + 2)
    .flatMap(([unit, size]) => {
      const count = Math.floor(rest / size);
      rest -= count * size;
      return count === 0 ? [] : [`${count} ${unit}`];
    })
    .join(" ");
}

/** How long ago a time is: `5 min ago`, or `at an unknown time`. */
export function ago(atMs: number | undefined, nowMs: number): string {
  return atMs === undefined ? "at an unknown time" : `${duration(nowMs - atMs)} ago`;
}

/** `1 execution`, `2 executions`, `12,000 executions`. */
export function plural(count: number, noun: string, many = `${noun}s`): string {
  return `${count.toLocaleString("en-US")} ${count === 1 ? noun : many}`;
}

/** A time as ISO text in UTC, to the second. Takes milliseconds since the epoch. */
export function time(ms: number): string {
  return new Date(ms).toISOString().replace(/\.\d+Z$/, "Z");
}

/** A text as one argument of a POSIX shell: file names, tasks and lanes may hold any character. */
export function shellWord(text: string): string {
  return /^[\w:./@-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

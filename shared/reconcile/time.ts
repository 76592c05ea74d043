const MILLISECONDS = /^\d{1,15}$/;

/** A time as a record holds it, in milliseconds since the epoch; undefined where there is none. */
export function timeOf(text: string): number | undefined {
  return MILLISECONDS.test(text) ? Number(text) : undefined;
}

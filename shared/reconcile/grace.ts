import { type Environment, readInteger } from "#shared/runtime/environment.ts";

const DEFAULT_GRACE_SECONDS = 30;
const MAX_GRACE_SECONDS = 86_400;

/**
 * Reads `RECONCILE_GRACE_SECONDS`: how long after the end of an upstream dispatch may still process its completion. Returns
 * milliseconds.
 */
export function readGraceMs(env: Environment, errors: string[]): number {
  const seconds = readInteger(
    env,
    "RECONCILE_GRACE_SECONDS",
    0,
    MAX_GRACE_SECONDS,
    DEFAULT_GRACE_SECONDS,
    errors,
  );
  return seconds * 1_000;
}

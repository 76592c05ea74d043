/** When to stop before the end: on a signal, and when whoever started this, or reads its output, is gone. */

const EXIT_CODES = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const;
/** The status of a program that writes into a pipe which nobody reads. */
const BROKEN_PIPE = 141;
/**
 * Ctrl-C reaches every process of a terminal's group, and npm then passes on to its child what it got itself: one
 * wish arrives several times. Only what comes later than this is a second wish.
 */
const SAME_WISH_MS = 1_000;
const PARENT_CHECK_MS = 250;

export interface StopSignals {
  /** Aborts when it is time to stop. */
  readonly signal: AbortSignal;
  /** The status to exit with after that. */
  readonly exitCode: number;
}

/**
 * Listens for the signals from now on. Asked for a second time, it ends the process at once; what the process has
 * started goes with it.
 */
export function listenForStop(): StopSignals {
  const stopping = new AbortController();
  let askedAt = Number.POSITIVE_INFINITY;
  const result = { signal: stopping.signal, exitCode: 0 };
  const stop = (reason: string, exitCode: number): void => {
    if (stopping.signal.aborted) {
      if (performance.now() - askedAt > SAME_WISH_MS) process.exit(result.exitCode);
      return;
    }
    askedAt = performance.now();
    result.exitCode = exitCode;
    stopping.abort(new Error(reason));
  };
  for (const [name, exitCode] of Object.entries(EXIT_CODES)) process.on(name, () => stop(name, exitCode));
  for (const stream of [process.stdout, process.stderr]) {
    stream.on("error", (error) => stop(`the output cannot be written: ${error.message}`, BROKEN_PIPE));
  }
  if (process.env.npm_lifecycle_event !== undefined) {
    // A shell between npm and this process dies of a signal without passing it on.
    const parent = process.ppid;
    const check = setInterval(() => {
      if (process.ppid !== parent) stop("npm is gone", EXIT_CODES.SIGTERM);
    }, PARENT_CHECK_MS);
    check.unref();
    stopping.signal.addEventListener("abort", () => clearInterval(check));
  }
  return result;
}

/** Stops a program early: on a signal, when its output is closed, or when the npm process that started it is gone. */

const EXIT_CODES = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const;
/** The conventional exit status after a write to a closed pipe (128 + SIGPIPE). */
export const BROKEN_PIPE = 141;
/**
 * One Ctrl-C may arrive several times: the terminal sends it to all processes of its group, and npm forwards it to its
 * child as well. Signals within this time after the first one count as the same.
 */
const DUPLICATE_SIGNAL_MS = 1_000;
const PARENT_CHECK_MS = 250;

export interface StopSignals {
  /** Aborts when the program must stop. */
  readonly signal: AbortSignal;
  /** The status to exit with after a stop. */
  readonly exitCode: number;
}

/**
 * Starts to listen for signals. A second signal ends the process at once, and with it the processes that it has started.
 */
export function listenForStop(): StopSignals {
  const stopping = new AbortController();
  let firstSignalAt = Number.POSITIVE_INFINITY;
  const result = { signal: stopping.signal, exitCode: 0 };
  const stop = (reason: string, exitCode: number): void => {
    if (stopping.signal.aborted) {
      if (performance.now() - firstSignalAt > DUPLICATE_SIGNAL_MS) process.exit(result.exitCode);
      return;
    }
    firstSignalAt = performance.now();
    result.exitCode = exitCode;
    stopping.abort(new Error(reason));
  };
  for (const [name, exitCode] of Object.entries(EXIT_CODES)) process.on(name, () => stop(name, exitCode));
  for (const stream of [process.stdout, process.stderr]) {
    stream.on("error", (error) => stop(`cannot write the output: ${error.message}`, BROKEN_PIPE));
  }
  if (process.env.npm_lifecycle_event !== undefined) {
    // A shell between npm and this process exits on a signal without forwarding it.
    const parent = process.ppid;
    const check = setInterval(() => {
      if (process.ppid !== parent) stop("the parent npm process has exited", EXIT_CODES.SIGTERM);
    }, PARENT_CHECK_MS);
    check.unref();
    stopping.signal.addEventListener("abort", () => clearInterval(check));
  }
  return result;
}

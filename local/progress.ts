import type { WriteStream } from "node:tty";
import type { RunProgress } from "#local/run.ts";

type Output = Pick<WriteStream, "write"> & { readonly isTTY?: boolean; readonly columns?: number };

const REDRAW_MS = 100;
const LINE_MS = 2_000;
const BAR_WIDTH = 24;
const DEFAULT_COLUMNS = 80;

/** Shows the progress of a run: on a terminal one line that is redrawn, elsewhere plain lines every two seconds. */
export class ProgressLine {
  readonly #output: Output;
  #shownAt = Number.NEGATIVE_INFINITY;
  #phase = "";
  #drawnWidth = 0;

  constructor(output: Output) {
    this.#output = output;
  }

  show(progress: RunProgress): void {
    const now = performance.now();
    const isNew = progress.phase !== this.#phase;
    if (!isNew && now - this.#shownAt < (this.#output.isTTY ? REDRAW_MS : LINE_MS)) return;
    this.#shownAt = now;
    this.#phase = progress.phase;
    const line = textOf(progress);
    if (!this.#output.isTTY) {
      this.#output.write(`${line}\n`);
      return;
    }
    const columns = this.#output.columns || DEFAULT_COLUMNS;
    this.#output.write(`\r\u001b[2K${barOf(progress)} ${line}`.slice(0, columns + "\r\u001b[2K".length - 1));
    this.#drawnWidth = columns;
  }

  /** Prints a permanent line. */
  note(text: string): void {
    this.clear();
    this.#output.write(`${text}\n`);
  }

  /** Erases the progress line. */
  clear(): void {
    if (this.#drawnWidth > 0) this.#output.write("\r\u001b[2K");
    this.#drawnWidth = 0;
  }
}

function textOf({ phase, tasks, done, failed, skipped, messages }: RunProgress): string {
  if (phase === "submitting") return `submitting: ${done} of ${tasks} executions`;
  const unsuccessful = [failed > 0 ? `${failed} failed` : "", skipped > 0 ? `${skipped} skipped` : ""].filter(
    Boolean,
  );
  return [`${done} of ${tasks} ended`, ...unsuccessful, `${messages} messages`].join(", ");
}

function barOf({ phase, tasks, done }: RunProgress): string {
  const filled = phase === "running" && tasks > 0 ? Math.floor((done / tasks) * BAR_WIDTH) : 0;
  return `[${"#".repeat(filled)}${".".repeat(BAR_WIDTH - filled)}]`;
}

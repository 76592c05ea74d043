/** Where a command writes, and what the output can do. */

import { createInterface } from "node:readline/promises";
import { styleText } from "node:util";

/** Formats words for a person. Without colors, every function returns its text. */
export interface Style {
  bold(text: string): string;
  dim(text: string): string;
  red(text: string): string;
  green(text: string): string;
  yellow(text: string): string;
  cyan(text: string): string;
  /** Columns of the terminal; 100 if the output is none. */
  readonly columns: number;
}

export interface Terminal {
  /** Writes text for a person or, with `--json`, for a program to standard output. */
  print(text: string): void;
  /** Writes a line to standard error. */
  note(line: string): void;
  /** Shows a line that the next one replaces. Only on a terminal. */
  progress(line: string): void;
  /** Whether `progress` shows anything. Else, progress is written in lines. */
  readonly showsProgress: boolean;
  /** Whether a person can answer a question. */
  readonly isInteractive: boolean;
  readonly style: Style;
  /** Asks a question. False unless the answer is yes. */
  confirm(question: string, signal: AbortSignal): Promise<boolean>;
}

/** Some terminals report 0 columns. */
const DEFAULT_COLUMNS = 100;
const CLEAR_LINE = "\r\u001b[2K";

/** The terminal of this process. */
export function processTerminal(): Terminal {
  const { stdin, stdout, stderr } = process;
  let hasProgress = false;
  const clear = (): void => {
    if (hasProgress) stderr.write(CLEAR_LINE);
    hasProgress = false;
  };
  return {
    print: (text) => {
      clear();
      stdout.write(text);
    },
    note: (line) => {
      clear();
      stderr.write(`${line}\n`);
    },
    progress: (line) => {
      if (!stderr.isTTY) return;
      stderr.write(`${CLEAR_LINE}${line.slice(0, (stderr.columns || DEFAULT_COLUMNS) - 1)}`);
      hasProgress = true;
    },
    showsProgress: stderr.isTTY === true,
    isInteractive: stdin.isTTY === true && stderr.isTTY === true,
    style: styleFor(stdout.isTTY === true && hasColors(), stdout.columns || DEFAULT_COLUMNS),
    confirm: (question, signal) => {
      clear();
      return ask(question, { input: stdin, output: stderr, signal });
    },
  };
}

interface Asking {
  readonly input: NodeJS.ReadableStream;
  readonly output: NodeJS.WritableStream;
  readonly signal: AbortSignal;
  /** Called at Ctrl-C, for which a terminal sends no signal while a line is edited. */
  readonly interrupt?: () => void;
}

/** Asks a question. No answer, Ctrl-D, is a no. Rejects if the signal aborts. */
export async function ask(
  question: string,
  { input, output, signal, interrupt = () => process.kill(process.pid, "SIGINT") }: Asking,
): Promise<boolean> {
  const reader = createInterface({ input, output });
  reader.on("SIGINT", interrupt);
  try {
    const answer = await reader.question(`${question} [y/N] `, { signal });
    return /^y(?:es)?$/i.test(answer.trim());
  } catch (error) {
    output.write("\n");
    if (signal.aborted) throw error;
    return false;
  } finally {
    reader.close();
  }
}

/** https://no-color.org: any value but the empty string turns colors off. */
function hasColors(): boolean {
  return (process.env.NO_COLOR ?? "") === "" && process.env.TERM !== "dumb";
}

export function styleFor(colors: boolean, columns: number): Style {
  const format = (name: Parameters<typeof styleText>[0]) => (text: string) =>
    colors ? styleText(name, text, { validateStream: false }) : text;
  return {
    bold: format("bold"),
    dim: format("dim"),
    red: format("red"),
    green: format("green"),
    yellow: format("yellow"),
    cyan: format("cyan"),
    columns,
  };
}

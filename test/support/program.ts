import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { once } from "node:events";

/** A program that has ended: its exit status (null after a signal) and its output. */
export interface EndedProgram {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunningProgram {
  readonly child: ChildProcessWithoutNullStreams;
  readonly ended: Promise<EndedProgram>;
  /** What the program has written to standard error so far. */
  readonly errorOutput: () => string;
}

/**
 * Starts a TypeScript program of this repository as a process. It gets PATH and `environment`, and no other variable of
 * the test. `stdin` is its whole standard input.
 */
export function startProgram(
  path: string,
  args: readonly string[],
  environment: Readonly<Record<string, string>> = {},
  stdin = "",
  folder = process.cwd(),
): RunningProgram {
  const child = spawn(process.execPath, [path, ...args], {
    env: { PATH: process.env.PATH, ...environment },
    cwd: folder,
  });
  child.stdin.on("error", () => undefined).end(stdin);
  let stdout = "";
  let stderr = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  const ended = once(child, "close").then(() => ({ code: child.exitCode, stdout, stderr }));
  return { child, ended, errorOutput: () => stderr };
}

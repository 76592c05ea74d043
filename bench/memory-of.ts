import { readFile } from "node:fs/promises";

export interface Memory {
  /** Resident now, in megabytes. */
  readonly now: number;
  /** The maximum so far. */
  readonly peak: number;
}

/** The resident memory of a process. Reads /proc: rejects on platforms other than Linux, and after the process has ended. */
export async function memoryOf(pid: number | undefined): Promise<Memory> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return { now: megabytes(status, "VmRSS"), peak: megabytes(status, "VmHWM") };
}

function megabytes(status: string, name: string): number {
  const kilobytes = new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(status)?.[1];
  if (kilobytes === undefined) throw new TypeError(`the process' status has no ${name}`);
  return Number(kilobytes) / 1_024;
}

import { CODES, type FindingCode, type Severity } from "#operate/doctor/codes.ts";

/** One thing that is wrong. */
export interface DoctorFinding {
  readonly code: FindingCode;
  readonly severity: Severity;
  /** What is wrong, with the values that show it. */
  readonly what: string;
  /** The node, queue, function or key that it is about. */
  readonly where: string;
  readonly remedy: string;
}

/** `remedy` replaces the general one of the code. */
export function found(
  code: FindingCode,
  where: string,
  what: string,
  remedy: string = CODES[code].remedy,
): DoctorFinding {
  return { code, severity: CODES[code].severity, what, where, remedy };
}

/** What a check has to say: its findings, and what of it does not apply here, with the reason. */
export interface CheckResult {
  readonly findings: readonly DoctorFinding[];
  readonly skipped?: string;
}

export function foundNothing(): CheckResult {
  return { findings: [] };
}

/** The check, or a part of it, does not apply or cannot be made. */
export function skip(reason: string): CheckResult {
  return { findings: [], skipped: reason };
}

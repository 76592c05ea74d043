/** Runs checks beside each other: one that fails or hangs becomes a finding, and the others still end. */

import { type CheckResult, type DoctorFinding, found } from "#operate/doctor/finding.ts";
import { messageOf } from "#shared/errors.ts";
import { isUnavailable } from "#shared/valkey/client.ts";

export interface Check {
  /** Stable, in snake_case. */
  readonly name: string;
  /** What it looks at, for a person. */
  readonly title: string;
  /** Milliseconds. */
  readonly limitMs?: number;
  run(): Promise<CheckResult>;
}

export type CheckStatus = "ok" | "found" | "skipped";

export interface CheckReport {
  readonly name: string;
  readonly title: string;
  readonly status: CheckStatus;
  /** Why the check, or a part of it, was not made. */
  readonly reason?: string | undefined;
}

export interface DoctorReport {
  readonly checks: readonly CheckReport[];
  readonly findings: readonly DoctorFinding[];
}

const DEFAULT_LIMIT_MS = 20_000;

/** Never rejects. A finding that several checks made is returned once. */
export async function runChecks(checks: readonly Check[]): Promise<DoctorReport> {
  const results = await Promise.all(checks.map(runCheck));
  const findings = new Map(
    results
      .flatMap((result) => result.findings)
      .map((finding) => [JSON.stringify([finding.code, finding.where, finding.what]), finding]),
  );
  return {
    checks: checks.map(({ name, title }, position) => {
      const { findings: own = [], skipped } = results[position] ?? {};
      const rest = skipped === undefined ? {} : { reason: skipped };
      if (own.length > 0) return { name, title, status: "found", ...rest };
      return { name, title, status: skipped === undefined ? "ok" : "skipped", ...rest };
    }),
    findings: [...findings.values()],
  };
}

async function runCheck({ title, run, limitMs = DEFAULT_LIMIT_MS }: Check): Promise<CheckResult> {
  const { promise: timedOut, resolve } = Promise.withResolvers<CheckResult>();
  const timer = setTimeout(() => {
    resolve({
      findings: [found("check_timed_out", title, `no result within ${Math.round(limitMs / 1_000)} s`)],
    });
  }, limitMs);
  try {
    return await Promise.race([run(), timedOut]);
  } catch (error) {
    return failed(title, error);
  } finally {
    clearTimeout(timer);
  }
}

function failed(title: string, error: unknown): CheckResult {
  const reason = messageOf(error);
  // The check of the connection reports the node.
  if (isUnavailable(error) || isUnavailable(Object(error).cause))
    return { findings: [], skipped: `not complete: ${reason}` };
  if (error instanceof DOMException && error.name === "TimeoutError") {
    return { findings: [found("check_timed_out", title, "the operation's time is over")] };
  }
  if (reason.startsWith("NOPERM")) {
    const [, command = "the command"] = /'(\S+)' command/.exec(reason) ?? [];
    return {
      findings: [
        found("permission_missing", title, reason, `allow the Valkey user ${command}: docs/valkey-access.md`),
      ],
    };
  }
  return { findings: [found("check_failed", title, reason)] };
}

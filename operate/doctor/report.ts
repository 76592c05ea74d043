/** What `doctor` answers, as plain JSON. */

import { z } from "zod";
import { FINDING_CODES } from "#operate/doctor/codes.ts";
import type { DoctorReport } from "#operate/doctor/run.ts";

const FINDING = z.object({
  code: z.enum(FINDING_CODES).describe("Stable. docs/doctor.md lists all"),
  severity: z.enum(["error", "warning"]),
  what: z.string().describe("What is wrong, with the values that show it"),
  where: z.string().describe("The node, queue, function or key"),
  remedy: z.string().describe("A command to run or a setting to change"),
});

const CHECK = z.object({
  name: z.string(),
  title: z.string(),
  status: z
    .enum(["ok", "found", "skipped"])
    .describe("found: it has findings. skipped: it does not apply, or could not be made"),
  reason: z.string().optional().describe("Why the check, or a part of it, was not made"),
});

export const DEPLOYMENT = z.object({
  is_local: z.boolean().describe("A stack on this machine, whose data may be lost"),
  flow_partitions: z.number(),
  completions_queue: z.string().optional(),
  dead_letter_queue: z.string().optional(),
  ready_queues: z.record(z.string(), z.string()).describe("The URL of the ready queue of each lane"),
  replication_group: z.string().optional().describe("The id of ElastiCache's replication group"),
});

export type Deployment = z.infer<typeof DEPLOYMENT>;

export const DOCTOR_OUTPUT = z.object({
  deployment: DEPLOYMENT,
  checks: z.array(CHECK),
  findings: z.array(FINDING).describe("Errors first. At most 1,000"),
});

export type DoctorOutput = z.infer<typeof DOCTOR_OUTPUT>;

const MAX_FINDINGS = 1_000;

export function doctorOutput(
  deployment: Deployment,
  ...reports: readonly Pick<DoctorReport, "checks" | "findings">[]
): DoctorOutput {
  const findings = reports.flatMap((report) => report.findings);
  return {
    deployment,
    checks: reports.flatMap(({ checks }) => checks.map((check) => ({ ...check }))),
    findings: [
      ...findings.filter(({ severity }) => severity === "error"),
      ...findings.filter(({ severity }) => severity !== "error"),
    ].slice(0, MAX_FINDINGS),
  };
}

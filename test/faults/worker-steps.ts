/** The steps of a worker's round, recognized by what it sends to Valkey and to the queue. */

import type { ValkeyCommand } from "#shared/contract/command.ts";
import type { Timing } from "#test/faults/steps.ts";

/** `run` is the handler. `publish` sends completions; everything else is a pipeline to Valkey. */
export type WorkerStep =
  | "read"
  | "lookup"
  | "record"
  | "reclaim grant"
  | "reclaim"
  | "grant"
  | "claim"
  | "payload"
  | "run"
  | "renew"
  | "report"
  | "flow"
  | "publish";

export interface WorkerPoint {
  readonly step: WorkerStep;
  /** `during`: some of the commands, or completions, of the step were sent, and the others were not. */
  readonly timing: Timing;
}

const STEPS_OF_ONE: readonly WorkerStep[] = ["read", "lookup", "record", "payload", "run", "renew", "flow"];
const STEPS_OF_MANY: readonly WorkerStep[] = [
  "reclaim grant",
  "reclaim",
  "grant",
  "claim",
  "report",
  "publish",
];

/** Every point between the search for an execution and the end of its round. Steps that only read are not split. */
export const WORKER_POINTS: readonly WorkerPoint[] = [
  ...[...STEPS_OF_ONE, ...STEPS_OF_MANY].flatMap((step): WorkerPoint[] => [
    { step, timing: "before" },
    { step, timing: "after" },
  ]),
  ...STEPS_OF_MANY.map((step): WorkerPoint => ({ step, timing: "during" })),
];

export function workerPointName({ step, timing }: WorkerPoint): string {
  return `${timing} ${step} of a worker`;
}

/** The names of the points that are not among the reached ones. */
export function missedWorkerPoints(reached: ReadonlySet<string>): string[] {
  return WORKER_POINTS.map(workerPointName).filter((name) => !reached.has(name));
}

const STEP_OF_CALL: Readonly<Record<string, WorkerStep>> = {
  ff_issue_reclaim_grant: "reclaim grant",
  ff_reclaim_execution: "reclaim",
  ff_issue_claim_grant: "grant",
  ff_claim_execution: "claim",
  ff_renew_lease: "renew",
  ff_complete_execution: "report",
  ff_fail_execution: "report",
};

/** The step of a pipeline, by its first command. */
export function workerStepOf([first]: readonly ValkeyCommand[]): WorkerStep {
  switch (first?.name) {
    case "fcall": {
      const step = STEP_OF_CALL[String(first.args[0])];
      if (step === undefined) throw new Error(`no step of a worker calls ${String(first.args[0])}`);
      return step;
    }
    case "zmscore":
      return "lookup";
    case "hmget":
      return "record";
    case "get":
      return "payload";
    case "hget":
      return "flow";
    default:
      return "read";
  }
}

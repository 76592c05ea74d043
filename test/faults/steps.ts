/** The steps of a dispatch, and of the reconciler's tasks, recognized by what the function sends to Valkey and to the queue. */

/** The steps that talk to Valkey, in order. */
const VALKEY_STEPS = ["start", "records", "edges", "children", "resolve", "mark"] as const;
/** Calls of the reconciler's tasks. */
const SWEEP_STEPS = ["mark lease", "give up", "expire", "promote"] as const;
export type ValkeyStep = (typeof VALKEY_STEPS)[number] | (typeof SWEEP_STEPS)[number];
/** `send` and `dead_letter` talk to the queue. */
export type Step = ValkeyStep | "send" | "dead_letter";

/**
 * `before`: before the first command of the step is sent. `during`: after the first of several commands was answered.
 * `after`: after the last command was executed, before its reply is passed on.
 */
export type Timing = "before" | "during" | "after";

export interface InjectionPoint {
  readonly step: Step;
  readonly timing: Timing;
}

export function nameOf({ step, timing }: InjectionPoint): string {
  return `${timing} ${step}`;
}

/** Every point of a dispatch at which a fault can be injected, in order. */
export const POINTS: readonly InjectionPoint[] = [
  { step: "start", timing: "before" },
  { step: "start", timing: "after" },
  { step: "records", timing: "before" },
  { step: "records", timing: "after" },
  { step: "edges", timing: "before" },
  { step: "edges", timing: "after" },
  { step: "children", timing: "before" },
  { step: "children", timing: "after" },
  { step: "resolve", timing: "before" },
  { step: "resolve", timing: "during" },
  { step: "resolve", timing: "after" },
  { step: "send", timing: "before" },
  { step: "send", timing: "after" },
  { step: "mark", timing: "before" },
  { step: "mark", timing: "during" },
  { step: "mark", timing: "after" },
];

/** Every point of the reconciler's tasks, and of the completions that they send. */
export const SWEEP_POINTS: readonly InjectionPoint[] = [
  ...SWEEP_STEPS.flatMap((step): InjectionPoint[] => [
    { step, timing: "before" },
    { step, timing: "during" },
    { step, timing: "after" },
  ]),
  { step: "send", timing: "before" },
  { step: "send", timing: "after" },
];

/** The points of a process whose Valkey client has started. */
export const WORKING_POINTS: readonly InjectionPoint[] = POINTS.filter(({ step }) => step !== "start");
export const VALKEY_POINTS: readonly InjectionPoint[] = WORKING_POINTS.filter(({ step }) => step !== "send");

/** The names of the points that are not among the reached ones. */
export function missedPoints(reached: ReadonlySet<string>): string[] {
  return POINTS.map(nameOf).filter((name) => !reached.has(name));
}

export function sweepPointName(point: InjectionPoint): string {
  return `${nameOf(point)} of a sweep`;
}

/** As `missedPoints`, for the points of the reconciler's tasks. */
export function missedSweepPoints(reached: ReadonlySet<string>): string[] {
  return SWEEP_POINTS.map(sweepPointName).filter((name) => !reached.has(name));
}

const STEP_OF_CALL: Readonly<Record<string, ValkeyStep>> = {
  ff_version: "start",
  ff_resolve_dependency: "resolve",
  ff_mark_lease_expired_if_due: "mark lease",
  ff_reclaim_execution: "give up",
  ff_expire_execution: "expire",
  ff_promote_delayed: "promote",
};

/** The step to which a command belongs; undefined if it is not part of a dispatch. */
export function stepOf([name = "", first = "", ...rest]: readonly string[]): ValkeyStep | undefined {
  switch (name.toLowerCase()) {
    case "hget":
      if (first === "ff:config:partitions") return "start";
      return rest.includes("downstream_execution_id") ? "edges" : undefined;
    case "hmget":
      return rest.includes("lifecycle_phase") ? "records" : "children";
    case "smembers":
      return "records";
    case "mget":
      return "children";
    case "fcall":
      return STEP_OF_CALL[first];
    case "set":
      return first.endsWith(":cascade") ? "mark" : undefined;
    default:
      return undefined;
  }
}

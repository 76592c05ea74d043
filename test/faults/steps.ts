/** The steps of a dispatch as they can be told from outside: by what the function sends. */

/** The steps whose traffic is with Valkey, in their order. */
const VALKEY_STEPS = ["start", "records", "edges", "children", "resolve", "mark"] as const;
export type ValkeyStep = (typeof VALKEY_STEPS)[number];
/** `send` and `dead_letter` go to the queue. */
export type Step = ValkeyStep | "send" | "dead_letter";

/** `amid`: after the first command of a step that has several was answered. `after`: done, the answer withheld. */
export type Moment = "before" | "amid" | "after";

export interface Point {
  readonly step: Step;
  readonly moment: Moment;
}

export function nameOf({ step, moment }: Point): string {
  return `${moment} ${step}`;
}

/** Where a dispatch can be broken while it works, in the order in which it comes there. */
export const POINTS: readonly Point[] = [
  { step: "start", moment: "before" },
  { step: "start", moment: "after" },
  { step: "records", moment: "before" },
  { step: "records", moment: "after" },
  { step: "edges", moment: "before" },
  { step: "edges", moment: "after" },
  { step: "children", moment: "before" },
  { step: "children", moment: "after" },
  { step: "resolve", moment: "before" },
  { step: "resolve", moment: "amid" },
  { step: "resolve", moment: "after" },
  { step: "send", moment: "before" },
  { step: "send", moment: "after" },
  { step: "mark", moment: "before" },
  { step: "mark", moment: "amid" },
  { step: "mark", moment: "after" },
];

/** Those of a process that is up: its client has started. */
export const WORKING_POINTS: readonly Point[] = POINTS.filter(({ step }) => step !== "start");
export const VALKEY_POINTS: readonly Point[] = WORKING_POINTS.filter(({ step }) => step !== "send");

/** The step that a command belongs to; undefined: none of a dispatch. */
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
      if (first === "ff_version") return "start";
      return first === "ff_resolve_dependency" ? "resolve" : undefined;
    case "set":
      return first.endsWith(":cascade") ? "mark" : undefined;
    default:
      return undefined;
  }
}

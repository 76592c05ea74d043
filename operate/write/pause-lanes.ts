import { z } from "zod";
import {
  type Change,
  type ChangeReport,
  changeReport,
  MAX_CHANGES,
  writeInput,
} from "#operate/change-report.ts";
import { readKnownLanes } from "#operate/lanes/known-lanes.ts";
import { type OperateContext, writeOperation } from "#operate/operation.ts";
import type { ValkeyCommand } from "#shared/contract/command.ts";
import { type LaneId, parseLaneId } from "#shared/contract/ids.ts";
import { InvalidRequestError } from "#shared/errors.ts";
import { pauseLane, readPauses, resumeLane } from "#shared/ready/paused-lanes.ts";
import { valueOrThrow } from "#shared/valkey/batches.ts";
import { serverTimeMs } from "#shared/valkey/server-time.ts";

const input = z.strictObject({
  ...writeInput,
  lanes: z
    .array(
      z.string().superRefine((text, check) => {
        const parsed = parseLaneId(text);
        if (!parsed.ok) check.addIssue({ code: "custom", message: parsed.error.message });
      }),
    )
    .min(1, "no lane is named")
    .max(MAX_CHANGES),
});
type Input = z.infer<typeof input>;

const PAUSE_TEXTS = {
  done: "workers begin no attempt in it from now on, and running attempts go on",
  unchanged: "it is paused already",
};
const RESUME_TEXTS = {
  done: "workers take its executions again. Messages that Lambda workers put off return within 5 minutes",
  unchanged: "it is not paused",
};

/** Stops workers from beginning attempts in lanes. What runs goes on, and no message is lost. */
export const pauseLanes = writeOperation({
  name: "lanes.pause",
  input,
  output: changeReport,
  target: targetOf,
  async run(context, request) {
    const { names, pauses } = await readKnownLanes(context);
    const known = new Set<string>(names);
    const unknown = request.lanes.filter((lane) => !known.has(lane));
    if (unknown.length > 0) {
      const used = names.length === 0 ? "none" : names.join(", ");
      throw new InvalidRequestError(unknown.map((lane) => `no lane ${lane}: the lanes in use are ${used}`));
    }
    const { actor, valkey } = context;
    const { reason } = request;
    const pausedAtMs = serverTimeMs(await valkey.call("time"));
    return change(context, request, {
      texts: PAUSE_TEXTS,
      isChange: (lane) => !pauses.has(lane),
      commandOf: (lane) => pauseLane(lane, { pausedAtMs, actor, reason }),
    });
  },
});

/** Lets workers take executions of lanes again. */
export const resumeLanes = writeOperation({
  name: "lanes.resume",
  input,
  output: changeReport,
  target: targetOf,
  async run(context, request) {
    const pauses = await readPauses(context.valkey);
    return change(context, request, {
      texts: RESUME_TEXTS,
      isChange: (lane) => pauses.has(lane),
      commandOf: resumeLane,
    });
  },
});

function targetOf({ lanes }: Input): string {
  return `lanes ${lanes.join(", ")}`;
}

interface LaneChange {
  readonly texts: { readonly done: string; readonly unchanged: string };
  isChange(lane: LaneId): boolean;
  /** Replies 1 if it changed the lane, and 0 if there was nothing to change. */
  commandOf(lane: LaneId): ValkeyCommand;
}

async function change(
  { valkey }: OperateContext,
  { lanes, dry_run: isDryRun }: Input,
  { texts, isChange, commandOf }: LaneChange,
): Promise<ChangeReport> {
  const names = [...new Set(lanes as LaneId[])];
  const unchanged = (target: string): Change => ({ target, status: "unchanged", text: texts.unchanged });
  if (isDryRun) {
    const changes = names.map((target) =>
      isChange(target) ? ({ target, status: "would_change", text: texts.done } as const) : unchanged(target),
    );
    return { dry_run: true, changes };
  }
  const results = await valkey.pipelined(names.map(commandOf));
  const changes = names.map((target, position): Change => {
    const hasChanged = Number(valueOrThrow(results[position])) === 1;
    return hasChanged ? { target, status: "changed", text: texts.done } : unchanged(target);
  });
  return { dry_run: false, changes };
}

import { z } from "zod";
import {
  DEFAULT_UNCHANGED_MS,
  flowEntry,
  flowEntrySchema,
  flowRecordOf,
  readFlow,
} from "#operate/flows/flow-entry.ts";
import { inspectMembers, type OpenMember, STUCK_MEMBER_REASONS } from "#operate/flows/stuck-members.ts";
import { readOperation } from "#operate/operation.ts";
import { readTaskNames } from "#operate/task-names.ts";
import { readAll } from "#shared/consistency/read.ts";
import { parseFlowId } from "#shared/contract/ids.ts";
import { PUBLIC_STATES } from "#shared/contract/record.ts";
import { InvalidRequestError } from "#shared/errors.ts";
import { serverTimeMs } from "#shared/valkey/server-time.ts";

/** Stuck members that are shown. */
const MAX_STUCK = 20;
/** Left for the answer. Milliseconds. */
const RESERVED_MS = 3_000;

const member = {
  execution_id: z.string(),
  task: z.string().describe("The id of the task in the workflow. Empty if its submission recorded none"),
  state: z.enum([...PUBLIC_STATES, ""]).describe("Empty: without a record"),
  lane: z.string(),
  since: z.number().describe("When it entered this state"),
};

/** Shows how far one flow has come, which members have waited longest, and which will not go on by themselves. */
export const status = readOperation({
  name: "status",
  input: z.strictObject({
    flow: z.string(),
    unchanged_ms: z
      .int()
      .min(1)
      .default(DEFAULT_UNCHANGED_MS)
      .describe("A running flow without a change for this time is stuck, and so is an unclaimed execution"),
  }),
  output: flowEntrySchema.extend({
    oldest: z.array(z.object(member)).describe("The longest in each state that is not an end"),
    stuck_members: z.array(
      z.object({
        ...member,
        reason: z
          .enum(STUCK_MEMBER_REASONS)
          .describe(
            "`upstreams_ended`: it waits for upstreams that have all ended. `lease_expired`: its worker lost the lease. " +
              "`delay_over`: its time has come. `unclaimed`: no worker has claimed it for long. `suspended`: it waits " +
              "for a signal. `no_record`: it was deleted, and its flow was not",
          ),
      }),
    ),
    stuck_member_count: z.int().min(0).describe(`All of them; at most ${MAX_STUCK} are listed`),
    unexamined: z
      .int()
      .min(0)
      .describe("Members whose upstreams were not read: there was no time, or they have more than 1,000"),
  }),
  async run(context, { flow: text, unchanged_ms: unchangedMs }) {
    const flowId = parseFlowId(text);
    if (!flowId.ok) throw new InvalidRequestError([flowId.error.message]);
    const keys = context.router.flowKeys(flowId.value);
    const nowMs = serverTimeMs(await context.valkey.call("time"));
    const record = flowRecordOf(
      keys,
      await readAll(context, readFlow(keys, context.router.indexKeys(keys.partition))),
    );
    if (record === undefined) {
      throw new InvalidRequestError([`the flow ${text} does not exist, or was deleted after its retention`]);
    }
    const options = { nowMs, unchangedMs };
    if (record.endedCounts !== undefined) {
      const entry = flowEntry(record, undefined, options);
      return { ...entry, oldest: [], stuck_members: [], stuck_member_count: 0, unexamined: 0 };
    }
    const found = await inspectMembers(context, record, {
      ...options,
      limit: MAX_STUCK,
      isLate: () => Date.now() > context.deadlineMs - RESERVED_MS,
    });
    const { oldest, stuck } = found;
    const names = await readTaskNames(
      context,
      [...oldest, ...stuck].map(({ id }) => id),
    );
    const shown = ({ id, state, lane, since }: OpenMember, task: string | undefined) => ({
      execution_id: id,
      task: task ?? "",
      state,
      lane,
      since,
    });
    return {
      ...flowEntry(record, found.summary, options),
      oldest: oldest.map((one, position) => shown(one, names[position])),
      stuck_members: stuck.map((one, position) => ({
        ...shown(one, names[oldest.length + position]),
        reason: one.reason,
      })),
      stuck_member_count: found.stuckCount,
      unexamined: found.unexamined,
    };
  },
});

import { z } from "zod";
import type { ExecutionRecord } from "#operate/execution.ts";
import type { OperateContext } from "#operate/operation.ts";
import { checkSelection } from "#operate/selection.ts";
import { time } from "#operate/words.ts";
import { executionOperation, selectedShape, type Verdict } from "#operate/write/changes.ts";
import { endLeases, hasLiveOwner } from "#operate/write/leases.ts";
import { announceUnmarked } from "#shared/ready/announce.ts";

const DEFAULT_REASON = "released by an operator";

/** Releases the leases of lost workers, so that other workers take the executions over at once. */
export const release = executionOperation({
  name: "release",
  states: ["active"],
  input: z
    .strictObject({
      ...selectedShape,
      force: z
        .boolean()
        .default(false)
        .describe("Also take leases away whose time is not over: the worker's report is refused"),
    })
    .superRefine(checkSelection),
  inspect: (execution, { force, execution: named }) => inspect(execution, force, named !== undefined),
  async apply(context, executions, { reason }) {
    const verdicts = await endLeases(context, executions, reason === "" ? DEFAULT_REASON : reason);
    const released = executions.filter((_, at) => verdicts[at]?.status === "changed");
    await announce(context, released);
    return verdicts;
  },
});

function inspect(execution: ExecutionRecord, isForced: boolean, isNamed: boolean): Verdict {
  const { fields } = execution;
  if (fields.lifecycle_phase !== "active") {
    return { status: "unchanged", code: "not_active", text: `no worker runs it: ${fields.public_state}` };
  }
  if (fields.ownership_state !== "leased") {
    return { status: "unchanged", code: fields.ownership_state, text: "its lease is released already" };
  }
  const worker = fields.current_worker_instance_id;
  const until = time(Number(fields.lease_expires_at));
  if (!hasLiveOwner(execution)) {
    return {
      status: "would_change",
      text: `the lease of worker ${worker} ended at ${until}: any worker can take it over`,
    };
  }
  if (isForced) {
    return {
      status: "would_change",
      text: `worker ${worker} loses its lease, and any worker can take it over`,
    };
  }
  const text = `worker ${worker} holds its lease until ${until}: wait for it, or use --force to take the lease away`;
  return { status: isNamed ? "failed" : "unchanged", code: "has_owner", text };
}

/** The reconciler announces what is not announced here. */
async function announce(
  { valkey, router, ready }: OperateContext,
  released: readonly ExecutionRecord[],
): Promise<void> {
  if (ready === undefined) return;
  const executions = released.map(({ keys, flowId }) => ({ executionId: keys.id, flowId }));
  await announceUnmarked({ valkey, router, ready }, executions);
}

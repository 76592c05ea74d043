import { randomUUID } from "node:crypto";
import { claimTargets } from "#sdk/worker/claim.ts";
import { finishBatch, type RunOutcome } from "#sdk/worker/finish.ts";
import { command, type Pipelines } from "#shared/contract/command.ts";
import { type ExecutionId, parseLaneId, unwrap } from "#shared/contract/ids.ts";
import type { WorkerIdentity } from "#shared/contract/ownership.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText } from "#shared/contract/record.ts";
import { RefusedError } from "#shared/errors.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import { valueOrThrow } from "#shared/valkey/batches.ts";

/** What ending an execution needs. A `Connection` has all of it. */
export interface CompletePorts {
  readonly valkey: Pipelines;
  readonly router: PartitionRouter;
  readonly completions: CompletionPublisher;
  readonly replicated?: Pipelines;
}

/** The result of `completeExecution`. */
export type ExecutionCompletion =
  /** This call has ended it, and its completion is sent. */
  | { readonly status: "ended" }
  /** It had ended before, with this outcome. */
  | { readonly status: "already_ended"; readonly outcome: string }
  /** No worker could claim it now: it waits for dependencies or for a time, runs, or is held by an operator. */
  | { readonly status: "not_claimable"; readonly state: string };

const FUNCTION = "ff_complete_execution";
/** The worker in the record of what `completeExecution` claims. */
export const OPERATOR = "operator";
const FIELDS = [
  "lifecycle_phase",
  "eligibility_state",
  "terminal_outcome",
  "lane_id",
  "required_capabilities",
] as const;

/**
 * Ends an execution that waits for a worker, in place of one: for example a task that stands for the approval of a person, in
 * a lane without workers. It claims the execution, writes the outcome, and sends the completion, from which the dispatch function
 * updates its children.
 *
 * An execution that a worker holds is left alone: only the holder of a lease can say how the run ended. A failure is final,
 * whatever the retry policy says.
 *
 * It is safe to call again after an error.
 *
 * @throws RefusedError `execution_not_found`.
 * @throws PublishError if the execution has ended and its completion was not accepted. The reconciler sends it later.
 * @throws ValkeyError if Valkey does not answer.
 *
 * @example
 * using sluice = await connect();
 * await completeExecution(sluice, approval, { outcome: "success", result: JSON.stringify({ approvedBy: "ada" }) });
 */
export async function completeExecution(
  ports: CompletePorts,
  executionId: ExecutionId,
  outcome: RunOutcome,
): Promise<ExecutionCompletion> {
  const { valkey, router } = ports;
  const keys = router.execKeys(executionId);
  const before = await readState(ports, executionId);
  if (before.result !== undefined) return before.result;
  const deps = { ...ports, identity: operatorIdentity(before.requiredCapabilities) };
  const target = { keys, index: router.indexKeys(keys.partition), lane: unwrap(parseLaneId(before.lane)) };
  const [claimed] = await claimTargets(deps, [target]);
  if (claimed !== undefined) {
    const [worked] = await finishBatch(deps, [
      { claimed: { ...claimed, payload: "", retryPolicyJson: "" }, run: outcome },
    ]);
    if (worked?.status !== "lease_lost") return { status: "ended" };
  }
  // Another caller was faster.
  const after = await readState({ valkey, router }, executionId);
  return after.result ?? { status: "not_claimable", state: "claimed by another worker" };
}

/** Offers all that an execution requires: a person ends it, whatever its workers need. A comma-separated list. */
export function operatorIdentity(requiredCapabilities: string): WorkerIdentity {
  const identity = { workerId: OPERATOR, instanceId: randomUUID() };
  return requiredCapabilities === ""
    ? identity
    : { ...identity, capabilities: requiredCapabilities.split(",") };
}

interface State {
  readonly lane: string;
  readonly requiredCapabilities: string;
  /** Undefined if a worker can claim it. */
  readonly result: ExecutionCompletion | undefined;
}

async function readState(
  { valkey, router }: Pick<CompletePorts, "valkey" | "router">,
  executionId: ExecutionId,
): Promise<State> {
  const { partition, core } = router.execKeys(executionId);
  const [read] = await valkey.pipelined([command(partition, "hmget", core, ...FIELDS)]);
  const record = valueOrThrow(read);
  const [phase = "", eligibility = "", outcome = "", lane = "", requiredCapabilities = ""] = (
    Array.isArray(record) ? record : []
  ).map(fieldText);
  if (phase === "") throw new RefusedError(FUNCTION, "execution_not_found", []);
  const state = { lane, requiredCapabilities };
  if (phase === "terminal") return { ...state, result: { status: "already_ended", outcome } };
  if (phase === "runnable" && eligibility === "eligible_now") return { ...state, result: undefined };
  const why = phase === "runnable" ? eligibility : phase;
  return { ...state, result: { status: "not_claimable", state: why } };
}

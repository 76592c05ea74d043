/** The entry `sluice/worker` of the npm package: run executions. */

export type { FinishDependencies, FinishStatus, RunOutcome, WorkedExecution } from "#sdk/worker/finish.ts";
export type { ClaimDependencies, ClaimOptions, WorkerClient, WorkSource } from "#sdk/worker/leasing.ts";
export { promoteDue } from "#sdk/worker/promote.ts";
export {
  type Execution,
  type ExecutionHandler,
  type WorkDependencies,
  workBatch,
} from "#sdk/worker/worker.ts";
export type { AttemptIndex } from "#shared/contract/ids.ts";
export type { WorkerIdentity } from "#shared/contract/ownership.ts";

/** The entry `sluice/worker` of the npm package: define tasks and run them. */

export {
  type ContainerWorker,
  type ContainerWorkerOptions,
  containerWorker,
} from "#sdk/kit/container-worker.ts";
export {
  type AnyTask,
  defineTask,
  type InputSchema,
  type Task,
  type TaskContext,
  type TaskDefinition,
  type TaskRetry,
} from "#sdk/kit/define-task.ts";
export type {
  LambdaBatchResponse,
  LambdaContext,
  LambdaMiddleware,
  LambdaRequest,
} from "#sdk/kit/lambda-types.ts";
export { type LambdaWorkerHandler, type LambdaWorkerOptions, lambdaWorker } from "#sdk/kit/lambda-worker.ts";
export type { TaskMiddleware, TaskRequest } from "#sdk/kit/middleware.ts";
export type { MeasuredRun, TaskMetrics } from "#sdk/kit/ports.ts";
export { MAX_RESULT_BYTES, NonRetryableError, TaskTimeoutError } from "#sdk/kit/run-task.ts";

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

/** The entry `sluice` of the npm package: connect, submit workflows, read their state, cancel, replay and complete. */

export {
  type CancelFlowOptions,
  type CancelFlowProgress,
  cancelFlow,
  type FlowCancellation,
  type MemberFailure,
} from "#sdk/cancellation/cancel-flow.ts";
export { type Connection, type ConnectOptions, connect } from "#sdk/connect.ts";
export { type FlowSummary, readFlowSummary } from "#sdk/flow-summary.ts";
export { type Replay, type ReplayOptions, type ReplayPorts, replayExecution } from "#sdk/replay-execution.ts";
export type { ReplicationOptions } from "#sdk/replicated-valkey.ts";
export { type ParsedWorkflow, parseWorkflow } from "#sdk/submission/parse.ts";
export {
  type Submission,
  type SubmitDependencies,
  type SubmitOptions,
  type SubmitProgress,
  submitFlow,
} from "#sdk/submission/submit.ts";
export type {
  Backoff,
  RetryPolicy,
  Task,
  WaitFor,
  Workflow,
  WorkflowEdge,
} from "#sdk/submission/workflow.ts";
export {
  type CompletePorts,
  completeExecution,
  type ExecutionCompletion,
} from "#sdk/worker/complete-execution.ts";
export type { RunOutcome } from "#sdk/worker/finish.ts";
export type { CancelPorts } from "#shared/cancellation/cancel-executions.ts";
export {
  command,
  type Pipelines,
  type ValkeyArgument,
  type ValkeyCommand,
  type ValkeyResult,
} from "#shared/contract/command.ts";
export type { CancellationPolicy } from "#shared/contract/graph.ts";
export {
  type ExecutionId,
  type FlowId,
  type IdError,
  type IdErrorReason,
  type LaneId,
  type Parsed,
  type Partition,
  parseExecutionId,
  parseFlowId,
  parseLaneId,
  unwrap,
} from "#shared/contract/ids.ts";
export type { Completion } from "#shared/contract/message.ts";
export {
  ConfigurationError,
  InvalidRecordError,
  LeaseLostError,
  NotReplicatedError,
  ProtocolError,
  PublishError,
  RefusedError,
  SluiceError,
  SubmissionError,
  UnreachableError,
  ValkeyError,
} from "#shared/errors.ts";
export type { SendResult } from "#shared/queue/batch-sender.ts";
export type { CompletionPublisher } from "#shared/queue/publisher.ts";
export type { ReadyExecution } from "#shared/ready/message.ts";
export type { ReadyPublisher } from "#shared/ready/publisher.ts";
export type { Environment } from "#shared/runtime/environment.ts";

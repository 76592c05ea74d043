/** The entry `sluice/dispatch` of the npm package: a dispatcher in a Lambda function of one's own, and Valkey's keys. */

export type { BatchResponse } from "#functions/dispatch/batch.ts";
export {
  createDispatcher,
  type DispatchHandler,
  type InvocationContext,
} from "#functions/dispatch/create-dispatcher.ts";
export { ExecKeys, FlowKeys, IndexKeys, type LaneKeys } from "#shared/contract/keys.ts";
export {
  DEFAULT_PARTITION_CONFIG,
  type PartitionConfig,
  PartitionRouter,
} from "#shared/contract/partitions.ts";

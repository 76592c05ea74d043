/** The entry `sluice/testing` of the npm package: run workflows in a test. */

export type { TaskState } from "#local/flow-status.ts";
export {
  type FlowEnd,
  startTestStack,
  type TaskEnd,
  type TestStack,
  type TestStackOptions,
} from "#local/test-stack.ts";

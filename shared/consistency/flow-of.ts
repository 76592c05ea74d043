import { parseFlowId } from "#shared/contract/ids.ts";
import { type ExecKeys, FlowKeys } from "#shared/contract/keys.ts";

/** The flow of an execution. Undefined if release 0.1 may have built its keys from another spelling of the id. */
export function flowOf(keys: ExecKeys, flowId: string): FlowKeys | undefined {
  const flow = parseFlowId(flowId);
  return flow.ok && flow.value === flowId ? new FlowKeys(keys.partition, flow.value) : undefined;
}

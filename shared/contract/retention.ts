/** Calls of Sluice's own functions that count, keep and delete ended flows (contract, sections 12 and 14). */

import { fcall, type ValkeyCommand } from "#shared/contract/command.ts";
import type { FlowKeys, IndexKeys } from "#shared/contract/keys.ts";

/** `sluice_count_members`: replies `OK, <open members>, <members>`. */
export function countMembers(flow: FlowKeys, index: IndexKeys): ValkeyCommand {
  const keys = [flow.core, flow.members, flow.summary, index.flowsEnded];
  return fcall(flow.partition, "sluice_count_members", keys, [flow.id]);
}

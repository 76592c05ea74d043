/** Sends completions in a separate process, as a function does, and tells how long it takes. */

import { randomUUID } from "node:crypto";
import { timed } from "#bench/measure.ts";
import { mintExecutionId, parseFlowId, unwrap } from "#shared/contract/ids.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import { queueClient } from "#shared/queue/client.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { chunked } from "#shared/valkey/batches.ts";

const [queueUrl = "", count = ""] = process.argv.slice(2);
// The parent process has ended.
process.on("disconnect", () => process.exit(0));
const router = new PartitionRouter();
const flowId = unwrap(parseFlowId(randomUUID()));
const completions = Array.from({ length: Number(count) }, () => {
  const executionId = unwrap(mintExecutionId(router.flowPartition(flowId), randomUUID()));
  return { executionId, flowId, outcome: "expired", depth: 0, root: executionId } as const;
});
const publisher = new SqsCompletionPublisher(queueClient(), queueUrl);
const ms = await timed(async () => {
  for (const chunk of chunked(completions)) {
    const results = await publisher.send(chunk);
    if (!results.every(({ ok }) => ok)) throw new Error("the queue refused a completion");
  }
});
process.send?.({ ms });

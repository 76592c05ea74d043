/**
 * A worker in a process of its own, which can really be killed. It answers each message with one pass over some partitions:
 * it promotes what is due, and claims and runs one batch of each.
 */

import { setTimeout as sleep } from "node:timers/promises";
import { ReconnectingValkey } from "#sdk/reconnecting-valkey.ts";
import { promoteDue } from "#sdk/worker/promote.ts";
import { type ExecutionHandler, workBatch } from "#sdk/worker/worker.ts";
import { parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import { messageOf } from "#shared/errors.ts";
import type { SendResult } from "#shared/queue/batch-sender.ts";
import { queueClient } from "#shared/queue/client.ts";
import { type CompletionPublisher, SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { readConfiguration, readQueueUrl } from "#shared/runtime/environment.ts";
import { Valkey } from "#shared/valkey/client.ts";
import { readValkeyConfig } from "#shared/valkey/config.ts";
import type { Pass, PassResult } from "#test/faults/worker-child.ts";

const config = readConfiguration(process.env, (errors) => ({
  ...readValkeyConfig(process.env, errors),
  queueUrl: readQueueUrl(process.env, "COMPLETIONS_QUEUE_URL", errors),
}));
const name = process.env.WORKER_NAME ?? "";
const router = new PartitionRouter(config.partitions);
const valkey = new ReconnectingValkey(
  (knownNodes) =>
    new Valkey(config.valkey, { knownNodes, onConnectionError: ({ message }) => console.error(message) }),
);
const publisher = new SqsCompletionPublisher(queueClient(), config.queueUrl);

async function pass(order: Pass): Promise<PassResult> {
  const lane = unwrap(parseLaneId(order.lane));
  let dropped = 0;
  /** Loses completions like a worker that dies right before it sends them. */
  const completions: CompletionPublisher = {
    send: async (all) => {
      const sent = all.filter(() => Math.random() * 100 >= order.lostPercent);
      dropped += all.length - sent.length;
      const results = (await publisher.send(sent)).values();
      return all.map(
        (one): SendResult => (sent.includes(one) ? (results.next().value ?? { ok: true }) : { ok: true }),
      );
    },
  };
  const handler: ExecutionHandler = async ({ payload, signal }) => {
    if (payload === "poison" || order.dies) process.kill(process.pid, "SIGKILL");
    await sleep(Math.random() * order.taskMs, undefined, { signal });
    return payload === "failed"
      ? { outcome: "failed", reason: "the model says so" }
      : { outcome: "success", result: "done" };
  };
  const statuses: string[] = [];
  // One after the other: a task that kills its worker takes down only what runs with it.
  for (const partition of router.partitions.filter((one) => order.partitions.includes(one))) {
    const source = { partition, lane };
    const deps = { valkey, router, completions, identity: { workerId: name, instanceId: name } };
    await promoteDue(deps, source);
    const terms = { limit: order.limit, leaseTtlMs: order.leaseTtlMs };
    const worked = await workBatch(deps, source, handler, terms);
    statuses.push(...worked.map(({ status }) => status));
  }
  return { statuses, dropped };
}

process.on("message", (order: Pass) => {
  void pass(order)
    .catch((error: unknown): PassResult => ({ statuses: [], dropped: 0, error: messageOf(error) }))
    .then((result) => process.send?.(result));
});
process.on("disconnect", () => process.exit());
process.send?.("ready");

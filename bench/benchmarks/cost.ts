import { setTimeout as sleep } from "node:timers/promises";
import type { SQSClient } from "@aws-sdk/client-sqs";
import { type BenchContext, type Benchmark, expectEqual } from "#bench/benchmark.ts";
import { dispatchCounted, functionOptions } from "#bench/dispatching.ts";
import { type BenchFlow, endRoots, eventOf, expectChildren, Outbox, star, submit } from "#bench/flows.ts";
import type { Row } from "#bench/report.ts";
import { BenchServer } from "#bench/server.ts";
import { FunctionProcess } from "#local/function-process.ts";
import { Poller } from "#local/poller.ts";
import { startQueue } from "#local/queue.ts";
import type { Completion } from "#shared/contract/message.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";

const EDGES = [1, 10, 100];
const BATCH = 10;
const POLL_MS = 5;

/** Counts the requests of a client by command. */
function countRequests(client: SQSClient): Map<string, number> {
  const counts = new Map<string, number>();
  client.middlewareStack.add(
    (next, { commandName = "unknown" }) =>
      (args) => {
        counts.set(commandName, (counts.get(commandName) ?? 0) + 1);
        return next(args);
      },
    { step: "initialize", name: "countRequests" },
  );
  return counts;
}

async function measure({ core, quick }: BenchContext, edges: number): Promise<Row> {
  const executions = quick ? 20 : 200;
  await using server = await BenchServer.start();
  await using queue = await startQueue({ visibilityTimeoutSeconds: 60 });
  const flows: BenchFlow[] = [];
  const completions: Completion[] = [];
  for (let number = 0; number < executions; number += 1) {
    const flow = await submit(server.valkey, star(edges));
    flows.push(flow);
    completions.push(...(await endRoots(server.valkey, flow, "success")));
  }
  const dataset = await server.save();
  const first = completions.slice(0, BATCH).map(eventOf);
  const traffic = await dispatchCounted(core, server.valkey, new Outbox(), first, 4);
  await server.restore(dataset);

  using clients = new DisposableStack();
  const [sender, receiver] = [queue.client(), queue.client()];
  for (const client of [sender, receiver]) clients.defer(() => client.destroy());
  const [sends, receives] = [countRequests(sender), countRequests(receiver)];
  const sent = await new SqsCompletionPublisher(sender, queue.queueUrl).send(completions);
  expectEqual("messages sent", sent.filter(({ ok }) => ok).length, executions);

  let logBytes = 0;
  await using fn = new FunctionProcess(
    functionOptions({
      name: "dispatch",
      valkeyUrl: server.url,
      queue,
      onOutput: (text) => {
        logBytes += Buffer.byteLength(text);
      },
    }),
  );
  // The start of the process and its log lines belong to no execution.
  await fn.invoke({ Records: [] });
  logBytes = 0;
  const processor = await server.processorMicros();
  const invocationMs: number[] = [];
  const poller = new Poller({
    client: receiver,
    queueUrl: queue.queueUrl,
    environments: [
      {
        invoke: async (event) => {
          const begun = performance.now();
          const answer = await fn.invoke(event);
          invocationMs.push(performance.now() - begun);
          return answer;
        },
      },
    ],
    onError: (error) => {
      throw new Error(error);
    },
  });
  poller.start();
  while (poller.counts.done < executions) await sleep(POLL_MS);
  // Without the long poll that finds nothing: the cost of an idle queue is not measured here.
  const received = receives.get("ReceiveMessageCommand") ?? 0;
  await poller.stop();
  const serverMicros = (await server.processorMicros()) - processor;
  await fn.stop();
  await expectChildren(server.valkey, flows, "eligible");

  const each = (count: number) => count / executions;
  const sendRequests = [...sends.values()].reduce((sum, count) => sum + count, 0);
  return {
    what: `${edges} ${edges === 1 ? "edge" : "edges"}, per completed execution`,
    figures: {
      sqs_send: each(sendRequests),
      sqs_receive: each(Math.min(received, invocationMs.length)),
      sqs_delete: each(receives.get("DeleteMessageBatchCommand") ?? 0),
      lambda_invocations: each(invocationMs.length),
      lambda_ms: each(invocationMs.reduce((sum, ms) => sum + ms, 0)),
      valkey_commands: traffic.commands / BATCH,
      valkey_cpu_micros: each(serverMicros),
      log_bytes: each(logBytes),
    },
  };
}

export const cost: Benchmark = {
  name: "cost",
  measured:
    "resources per completed execution, in full batches of ten: requests to the queue, invocations and their time, " +
    "Valkey commands and CPU time, bytes of logs and metrics (docs/cost.md converts them to prices)",
  notShown:
    "batches that are not full, empty receives of an idle queue, and the network's latency, which each invocation " +
    "has four times",
  async run(context) {
    const rows: Row[] = [];
    for (const edges of EDGES) {
      context.note(`${edges} edges`);
      rows.push(await measure(context, edges));
    }
    return rows;
  },
};

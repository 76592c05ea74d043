import { randomUUID } from "node:crypto";
import {
  CreateQueueCommand,
  DeleteMessageBatchCommand,
  ReceiveMessageCommand,
  SendMessageBatchCommand,
} from "@aws-sdk/client-sqs";
import type { BenchContext, Benchmark } from "#bench/benchmark.ts";
import { startBullMq } from "#bench/end-to-end/bullmq.ts";
import type { Contender, GraphRun } from "#bench/end-to-end/contender.ts";
import { type SluiceKind, startSluice } from "#bench/end-to-end/sluice.ts";
import { median } from "#bench/measure.ts";
import { atLeast, atMost, type Goal, type Row } from "#bench/report.ts";
import { BenchServer } from "#bench/server.ts";
import { startQueue } from "#local/queue.ts";

const CONCURRENCY = 50;
const CHAIN = 10;
const KINDS: readonly SluiceKind[] = [
  "container worker",
  "Lambda workers",
  "Lambda workers and dispatch function",
];

interface Sizes {
  readonly warmUp: number;
  readonly chains: number;
  readonly width: number;
  readonly fans: number;
  readonly atOnce: number;
}

const FULL: Sizes = { warmUp: 20, chains: 40, width: 1_000, fans: 5, atOnce: 200 };
const QUICK: Sizes = { warmUp: 1, chains: 2, width: 20, fans: 1, atOnce: 5 };

interface Measured {
  readonly chainMs: number;
  /** From the beginning of the first task to the beginning of the last one. */
  readonly runningMs: number;
  readonly hops: readonly number[];
  readonly fanMs: number;
  readonly chainsPerSecond: number;
  readonly requestsPerTask: number;
  readonly invocationsPerTask: number;
  /** With one message per request and invocation: the chains that ran one after the other. */
  readonly requestsPerTaskAlone: number;
}

async function measure(contender: Contender, sizes: Sizes): Promise<Measured> {
  for (let round = 0; round < sizes.warmUp; round += 1) await contender.chain(CHAIN);
  const alone = contender.traffic;
  const chains: GraphRun[] = [];
  for (let round = 0; round < sizes.chains; round += 1) chains.push(await contender.chain(CHAIN));
  const afterChains = contender.traffic;
  const fans: GraphRun[] = [];
  await contender.fan(sizes.width);
  const before = contender.traffic;
  for (let round = 0; round < sizes.fans; round += 1) fans.push(await contender.fan(sizes.width));
  const after = contender.traffic;
  const begunAt = performance.now();
  await Promise.all(Array.from({ length: sizes.atOnce }, () => contender.chain(CHAIN)));
  const seconds = (performance.now() - begunAt) / 1_000;
  const tasks = sizes.fans * (sizes.width + 2);
  return {
    chainMs: median(chains.map(totalOf)),
    runningMs: median(chains.map(({ starts, endedAt }) => endedAt - (starts[0] ?? endedAt))),
    hops: chains.flatMap(({ starts }) => starts.slice(1).map((at, index) => at - (starts[index] ?? at))),
    fanMs: median(fans.map(totalOf)),
    chainsPerSecond: sizes.atOnce / seconds,
    requestsPerTask: (after.requests - before.requests) / tasks,
    invocationsPerTask: (after.invocations - before.invocations) / tasks,
    requestsPerTaskAlone: (afterChains.requests - alone.requests) / (sizes.chains * CHAIN),
  };
}

function totalOf({ submittedAt, endedAt }: GraphRun): number {
  return endedAt - submittedAt;
}

function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((left, right) => left - right);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
}

function rowOf(name: string, measured: Measured, goals: readonly Goal[]): Row {
  const { chainMs, runningMs, hops, fanMs, chainsPerSecond } = measured;
  const { requestsPerTask, invocationsPerTask, requestsPerTaskAlone } = measured;
  return {
    what: name,
    figures: {
      chain_of_10_ms: chainMs,
      chain_running_ms: runningMs,
      hop_p50_ms: percentile(hops, 0.5),
      hop_p99_ms: percentile(hops, 0.99),
      fan_in_ms: fanMs,
      chains_per_second: chainsPerSecond,
      ...(requestsPerTask === 0
        ? {}
        : {
            sqs_requests_per_task: requestsPerTask,
            invocations_per_task: invocationsPerTask,
            sqs_requests_per_task_alone: requestsPerTaskAlone,
          }),
    },
    goals,
  };
}

function goalsOf(kind: SluiceKind, own: Measured, bullMq: Measured, tenHopsMs: number): Goal[] {
  if (kind === "container worker") {
    return [
      atLeast("at least BullMQ's chains per second", own.chainsPerSecond / bullMq.chainsPerSecond, 1),
      atMost("at most 1.5 times BullMQ's chain", own.chainMs / bullMq.chainMs, 1.5),
      atMost("at most 1.5 times BullMQ's fan-in", own.fanMs / bullMq.fanMs, 1.5),
    ];
  }
  if (kind !== "Lambda workers") return [];
  return [
    atMost("chain: at most 4 times ten bare hops of the emulator", own.chainMs / tenHopsMs, 4),
    atMost("at most 6 times BullMQ's fan-in", own.fanMs / bullMq.fanMs, 6),
    atMost("at most 0.31 requests a task in full batches", own.requestsPerTask, 0.31),
  ];
}

/** The median time for one message to be sent, received and deleted ten times in a row, in milliseconds. */
async function measureTenHops(rounds: number): Promise<number> {
  await using queue = await startQueue({ visibilityTimeoutSeconds: 60 });
  const client = queue.client();
  const { QueueUrl: created = "" } = await client.send(new CreateQueueCommand({ QueueName: randomUUID() }));
  const QueueUrl = `${queue.endpoint}${new URL(created).pathname}`;
  const times: number[] = [];
  for (let round = 0; round < rounds; round += 1) {
    const begunAt = performance.now();
    for (let hop = 0; hop < CHAIN; hop += 1) {
      await client.send(
        new SendMessageBatchCommand({ QueueUrl, Entries: [{ Id: "0", MessageBody: "hop" }] }),
      );
      const { Messages: messages = [] } = await client.send(
        new ReceiveMessageCommand({ QueueUrl, WaitTimeSeconds: 5, MaxNumberOfMessages: 10 }),
      );
      const [message] = messages;
      await client.send(
        new DeleteMessageBatchCommand({
          QueueUrl,
          Entries: [{ Id: "0", ReceiptHandle: message?.ReceiptHandle }],
        }),
      );
    }
    times.push(performance.now() - begunAt);
  }
  client.destroy();
  return median(times);
}

export const endToEnd: Benchmark = {
  name: "end_to_end",
  measured:
    "no-op tasks from the end of a submission to the beginning of the last task: a chain of ten, a fan-out and fan-in of " +
    "1,000, and 200 chains at once (submission included), on a container worker, on Lambda workers behind the queue " +
    "emulator, with and without a separate dispatch function, and BullMQ's flows with its own worker on the same server, " +
    "all with a concurrency of 50",
  notShown:
    "a network, AWS, and tasks that take time. Everything but Valkey shares one process, the queue emulator included, which " +
    "BullMQ does not need. Published for comparison: FlowFabric's chain of ten 17.46 flows a second and p50 413 ms, on 16 cores",
  async run({ quick, note }: BenchContext): Promise<Row[]> {
    const sizes = quick ? QUICK : FULL;
    note("BullMQ");
    let bullMq: Measured;
    {
      await using server = await BenchServer.start();
      await using contender = await startBullMq(server.url, CONCURRENCY);
      bullMq = await measure(contender, sizes);
    }
    const tenHopsMs = await measureTenHops(sizes.chains);
    const rows: Row[] = [
      rowOf("BullMQ", bullMq, []),
      { what: "ten bare hops of the emulator", figures: { ten_hops_ms: tenHopsMs } },
    ];
    for (const kind of KINDS) {
      note(kind);
      await using server = await BenchServer.start();
      await using contender = await startSluice(kind, server, CONCURRENCY);
      const own = await measure(contender, sizes);
      rows.push(rowOf(kind, own, quick ? [] : goalsOf(kind, own, bullMq, tenHopsMs)));
    }
    return rows;
  },
};

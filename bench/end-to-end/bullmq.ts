import { randomUUID } from "node:crypto";
import { type FlowJob, FlowProducer, Worker } from "bullmq";
import { type Contender, type GraphRun, NO_TRAFFIC } from "#bench/end-to-end/contender.ts";

const QUEUE = "bench";

interface Running {
  readonly starts: number[];
  readonly ended: PromiseWithResolvers<number>;
}

/** Flows of BullMQ, with its own worker in this process. */
export async function startBullMq(url: URL, concurrency: number): Promise<Contender> {
  const connection = { host: url.hostname, port: Number(url.port), maxRetriesPerRequest: null };
  const graphs = new Map<string, Running>();
  const worker = new Worker(
    QUEUE,
    (job) => {
      const now = performance.now();
      const graph = graphs.get(String(job.data.graph));
      graph?.starts.push(now);
      if (job.data.isLast === true) graph?.ended.resolve(now);
      return Promise.resolve();
    },
    { connection, concurrency },
  );
  const producer = new FlowProducer({ connection });
  await worker.waitUntilReady();
  const run = async (
    make: (job: (isLast: boolean, children?: FlowJob[]) => FlowJob) => FlowJob,
  ): Promise<GraphRun> => {
    const graph = randomUUID();
    const running = { starts: [], ended: Promise.withResolvers<number>() };
    graphs.set(graph, running);
    await producer.add(
      make((isLast, children = []) => ({
        name: "task",
        queueName: QUEUE,
        data: { graph, isLast },
        children,
      })),
    );
    const submittedAt = performance.now();
    const endedAt = await running.ended.promise;
    graphs.delete(graph);
    return { submittedAt, endedAt, starts: running.starts };
  };
  return {
    name: "BullMQ",
    traffic: NO_TRAFFIC,
    chain: (length) =>
      run((job) => {
        let last = job(length === 1);
        for (let number = 2; number <= length; number += 1) last = job(number === length, [last]);
        return last;
      }),
    fan: (width) =>
      run((job) =>
        job(
          true,
          Array.from({ length: width }, () => job(false)),
        ),
      ),
    async [Symbol.asyncDispose]() {
      await producer.close();
      await worker.close();
    },
  };
}

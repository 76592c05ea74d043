import { type BenchContext, type Benchmark, expectEqual } from "#bench/benchmark.ts";
import { type Client, dispatcher } from "#bench/dispatching.ts";
import { endRoots, eventOf, expectChildren, layered, Outbox, star, submit } from "#bench/flows.ts";
import { alternate, timed } from "#bench/measure.ts";
import { startNetwork } from "#bench/network.ts";
import { atMost, type Row } from "#bench/report.ts";
import { BenchServer, raise } from "#bench/server.ts";
import type { CompletionEvent } from "#shared/contract/message.ts";

/** What ElastiCache's `sync` durability adds to a write: single-digit milliseconds. */
const WRITE_MS = 3;
/** One way, in milliseconds, as in the benchmark `delay`. */
const DELAY_MS = 0.33;
const BATCH = 10;
const EDGES = 3;
/** Dispatch writes in one of its four round trips. */
const DISPATCH_WRITES = 1;
const COMMAND_TIMEOUT_MS = 60_000;

/** A step to measure over a connection. It returns the milliseconds of its timed part. */
type Step = (valkey: Client) => Promise<number>;

async function compare(
  { core, quick }: BenchContext,
  server: BenchServer,
  what: string,
  step: Step,
  writes?: number,
): Promise<Row> {
  await using durable = await startNetwork(server.url, DELAY_MS, WRITE_MS);
  await using plain = await startNetwork(server.url, DELAY_MS, 0);
  using clients = new DisposableStack();
  const sideOf = (url: URL) => {
    const valkey = new core.Valkey(
      { url, cluster: false },
      { onConnectionError: raise, commandTimeoutMs: COMMAND_TIMEOUT_MS },
    );
    clients.defer(() => valkey.close());
    return () => step(valkey);
  };
  const { at3, at0 } = await alternate(
    quick ? 1 : 15,
    { at3: sideOf(durable.url), at0: sideOf(plain.url) },
    best,
  );
  const limit = writes === undefined ? 0 : (at0 + writes * WRITE_MS) * 1.1 + 1;
  return {
    what,
    figures: {
      ms_at_0: at0,
      ms_at_3: at3,
      added_ms: at3 - at0,
      times: at3 / at0,
      writing_round_trips: (at3 - at0) / WRITE_MS,
    },
    goals:
      quick || writes === undefined
        ? []
        : [atMost("at most one write's delay more, + 10 % + 1 ms (ms)", at3, limit)],
  };
}

/** Other work on the machine only makes a round longer. */
function best(values: readonly number[]): number {
  return Math.min(...values);
}

async function dispatchRow(context: BenchContext): Promise<Row> {
  await using server = await BenchServer.start();
  const flows = await Promise.all(Array.from({ length: BATCH }, () => submit(server.valkey, star(EDGES))));
  const events: CompletionEvent[] = [];
  for (const flow of flows) events.push(...(await endRoots(server.valkey, flow, "success")).map(eventOf));
  const dataset = await server.save();
  return await compare(
    context,
    server,
    `dispatch, ${BATCH} completions with ${EDGES} edges`,
    async (valkey) => {
      await server.restore(dataset);
      const ms = await timed(() => dispatcher(context.core, valkey, new Outbox())(events));
      await expectChildren(server.valkey, flows, "eligible");
      return ms;
    },
    DISPATCH_WRITES,
  );
}

async function completionRow(context: BenchContext): Promise<Row> {
  await using server = await BenchServer.start();
  return await compare(
    context,
    server,
    `completion, a worker's round of ${BATCH} executions`,
    async (valkey) => {
      const flow = await submit(server.valkey, star(1, { roots: BATCH }));
      let ended = 0;
      const ms = await timed(async () => {
        ended = (await endRoots(valkey, flow, "success")).length;
      });
      expectEqual("executions that ended", ended, BATCH);
      return ms;
    },
  );
}

async function submissionRow(context: BenchContext, tasks: number): Promise<Row> {
  await using server = await BenchServer.start();
  const workflow = layered(tasks);
  return await compare(
    context,
    server,
    `submission, ${tasks} tasks with ${workflow.edges.length} edges`,
    async (valkey) => {
      await server.client.flushdb("SYNC");
      return timed(() => submit(valkey, workflow));
    },
  );
}

export const durable: Benchmark = {
  name: "durable",
  measured:
    `dispatch, a worker's round and a submission through a proxy that delays each chunk by ${DELAY_MS} ms each way, and each ` +
    `reply to a write by ${WRITE_MS} ms more (ms_at_3) or by nothing more (ms_at_0); added_ms / ${WRITE_MS} is the number of ` +
    "round trips that wait for a write",
  notShown:
    "a real durable server: its delay varies and grows with the write rate; the proxy parses all traffic, which costs about " +
    "the same in both columns",
  async run(context) {
    const rows: Row[] = [];
    for (const row of [
      () => dispatchRow(context),
      () => completionRow(context),
      () => submissionRow(context, 20),
      () => submissionRow(context, context.quick ? 50 : 1_000),
    ]) {
      rows.push(await row());
      context.note(rows.at(-1)?.what ?? "");
    }
    return rows;
  },
};

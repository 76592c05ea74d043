import type { BenchContext, Benchmark } from "#bench/benchmark.ts";
import { expectEqual } from "#bench/benchmark.ts";
import { dispatchCounted, dispatcher, invoke, startFunction } from "#bench/dispatching.ts";
import { endRoots, eventOf, expectChildren, Outbox, ROUTER, star, submit } from "#bench/flows.ts";
import { alternate, median, timed } from "#bench/measure.ts";
import { atLeast, atMost, type Row } from "#bench/report.ts";
import { dispatchSequentially } from "#bench/sequential.ts";
import { BenchServer, raise } from "#bench/server.ts";
import type { SendResult } from "#shared/queue/batch-sender.ts";
import type { ReadyExecution } from "#shared/ready/message.ts";
import type { ReadyPublisher } from "#shared/ready/publisher.ts";

const CASES = [
  { children: 1, rounds: 60 },
  { children: 10, rounds: 40 },
  { children: 100, rounds: 25 },
  { children: 1_000, rounds: 11 },
  { children: 10_000, rounds: 3 },
];
const QUICK_CASES = [
  { children: 1, rounds: 2 },
  { children: 100, rounds: 2 },
];
/** The case with goals. */
const SIZE_WITH_GOALS = 1_000;
/** Up to this size a fan-out is one window and takes four round trips. */
const ONE_WINDOW = 2_048;

/** Accepts every ready message at once: the benchmark measures what announcing costs at Valkey and in the dispatcher. */
class AcceptedReady implements ReadyPublisher {
  count = 0;

  announces(): boolean {
    return true;
  }

  announce(ready: readonly ReadyExecution[]): Promise<SendResult[]> {
    this.count += ready.length;
    return Promise.resolve(ready.map(() => ({ ok: true })));
  }
}

async function measure({ core, quick }: BenchContext, children: number, rounds: number): Promise<Row> {
  await using server = await BenchServer.start();
  const flow = await submit(server.valkey, star(children));
  const completions = await endRoots(server.valkey, flow, "success");
  const events = completions.map(eventOf);
  const dataset = await server.save();
  using resources = new DisposableStack();
  const valkey = new core.Valkey({ url: server.url, cluster: false }, { onConnectionError: raise });
  resources.defer(() => valkey.close());
  await using fn = startFunction({ name: "dispatch", valkeyUrl: server.url });
  const publisher = new Outbox();
  const dispatch = dispatcher(core, valkey, publisher);
  const announced = new AcceptedReady();
  const announcing = dispatcher(core, valkey, publisher, announced);
  const functionMs: number[] = [];
  const callMs: number[] = [];
  const processorMs: number[] = [];
  const { sluice, sequential, ready } = await alternate(rounds, {
    sluice: async () => {
      await server.restore(dataset);
      const processor = await server.processorMicros();
      await server.resetCommandTimes();
      const ms = await timed(() => dispatch(events));
      callMs.push((await server.commandTime("fcall")).micros / 1_000);
      processorMs.push(((await server.processorMicros()) - processor) / 1_000);
      await expectChildren(server.valkey, [flow], "eligible");
      return ms;
    },
    sequential: async () => {
      await server.restore(dataset);
      const ms = await timed(async () => {
        for (const event of events) await dispatchSequentially(server.client, ROUTER, event);
      });
      await expectChildren(server.valkey, [flow], "eligible");
      return ms;
    },
    ready: async () => {
      await server.restore(dataset);
      announced.count = 0;
      const ms = await timed(() => announcing(events));
      expectEqual("announced children", announced.count, children);
      return ms;
    },
    function: async () => {
      await server.restore(dataset);
      const ms = await timed(() => invoke(fn, completions));
      await expectChildren(server.valkey, [flow], "eligible");
      functionMs.push(ms);
      return ms;
    },
  });
  await server.restore(dataset);
  const traffic =
    children <= ONE_WINDOW
      ? await dispatchCounted(core, valkey, publisher, events, 4)
      : { rounds: 0, commands: 0 };
  expectEqual("published completions", publisher.sent.length, 0);
  const bound = median(callMs);
  return {
    what: `${children} children`,
    figures: {
      sluice_ms: sluice,
      sequential_ms: sequential,
      times_sequential: sequential / sluice,
      ready_ms: ready,
      ready_overhead: ready / sluice - 1,
      fcall_ms: bound,
      of_bound: bound / sluice,
      server_cpu_ms: median(processorMs),
      whole_function_ms: median(functionMs),
      ...(traffic.rounds === 0 ? {} : { round_trips: traffic.rounds, commands: traffic.commands }),
    },
    goals:
      quick || children !== SIZE_WITH_GOALS
        ? []
        : [
            atLeast("at least 15 times the sequential shape", sequential / sluice, 15),
            atLeast("at least 0.7 of the bound", bound / sluice, 0.7),
            atMost("announcing: at most 0.1 more time", ready / sluice - 1, 0.1),
          ],
  };
}

export const fanout: Benchmark = {
  name: "fanout",
  measured:
    "one completion whose children become eligible: the built dispatcher, 2 + 4N sequential round trips with the same " +
    "client library, the same with ready messages (ready_ms, without the time of the queue), and the lower bound, which is the server's time for the calls of ff_resolve_dependency",
  notShown:
    "a network, a cluster, other clients. The bound excludes reading edges and children, parsing and replying " +
    "(server_cpu_ms includes them). whole_function_ms is the built function in a separate process, with logs, " +
    "metrics and IPC",
  async run(context) {
    const rows: Row[] = [];
    for (const { children, rounds } of context.quick ? QUICK_CASES : CASES) {
      context.note(`${children} children`);
      rows.push(await measure(context, children, rounds));
    }
    return rows;
  },
};

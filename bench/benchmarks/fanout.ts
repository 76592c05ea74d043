import type { BenchContext, Benchmark } from "#bench/benchmark.ts";
import { expectEqual } from "#bench/benchmark.ts";
import { dispatchCounted, dispatcher, invoke, startFunction } from "#bench/dispatching.ts";
import { alternate, median, timed } from "#bench/measure.ts";
import { atLeast, type Row } from "#bench/report.ts";
import { endRoots, eventOf, expectChildren, Outbox, ROUTER, star, submit } from "#bench/scenes.ts";
import { dispatchSequentially } from "#bench/sequential.ts";
import { BenchServer, raise } from "#bench/server.ts";

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
/** The case that the goals are for. */
const JUDGED = 1_000;
/** Up to here a fan-out is one window, and takes four round trips. */
const ONE_WINDOW = 2_048;

async function measure({ core, quick }: BenchContext, children: number, rounds: number): Promise<Row> {
  await using server = await BenchServer.start();
  const benchFlow = await submit(server.valkey, star(children));
  const completions = await endRoots(server.valkey, benchFlow, "success");
  const events = completions.map(eventOf);
  const kept = await server.keep();
  using resources = new DisposableStack();
  const valkey = new core.Valkey({ url: server.url, cluster: false }, { onConnectionError: raise });
  resources.defer(() => valkey.close());
  await using fn = startFunction({ name: "dispatch", valkeyUrl: server.url });
  const publisher = new Outbox();
  const dispatch = dispatcher(core, valkey, publisher);
  const functionMs: number[] = [];
  const callMs: number[] = [];
  const processorMs: number[] = [];
  const { ours, sequential } = await alternate(rounds, {
    ours: async () => {
      await server.putBack(kept);
      const processor = await server.processorMicros();
      await server.resetCommandTimes();
      const ms = await timed(() => dispatch(events));
      callMs.push((await server.commandTime("fcall")).micros / 1_000);
      processorMs.push(((await server.processorMicros()) - processor) / 1_000);
      await expectChildren(server.valkey, [benchFlow], "eligible");
      return ms;
    },
    sequential: async () => {
      await server.putBack(kept);
      const ms = await timed(async () => {
        for (const event of events) await dispatchSequentially(server.client, ROUTER, event);
      });
      await expectChildren(server.valkey, [benchFlow], "eligible");
      return ms;
    },
    function: async () => {
      await server.putBack(kept);
      const ms = await timed(() => invoke(fn, completions));
      await expectChildren(server.valkey, [benchFlow], "eligible");
      functionMs.push(ms);
      return ms;
    },
  });
  await server.putBack(kept);
  const traffic =
    children <= ONE_WINDOW
      ? await dispatchCounted(core, valkey, publisher, events, 4)
      : { rounds: 0, commands: 0 };
  expectEqual("published completions", publisher.sent.length, 0);
  const bound = median(callMs);
  return {
    what: `${children} children`,
    figures: {
      sluice_ms: ours,
      sequential_ms: sequential,
      times_sequential: sequential / ours,
      fcall_ms: bound,
      of_bound: bound / ours,
      server_cpu_ms: median(processorMs),
      whole_function_ms: median(functionMs),
      ...(traffic.rounds === 0 ? {} : { round_trips: traffic.rounds, commands: traffic.commands }),
    },
    goals:
      quick || children !== JUDGED
        ? []
        : [
            atLeast("at least 15 times the sequential shape", sequential / ours, 15),
            atLeast("at least 0.7 of the bound", bound / ours, 0.7),
          ],
  };
}

export const fanout: Benchmark = {
  name: "fanout",
  measured:
    "one completion whose children become eligible: the built dispatcher, 2 + 4N sequential round trips with the " +
    "same client library, and the bound, which is the server's own time for the calls of ff_resolve_dependency",
  notShown:
    "a network; a cluster; other clients on the server. The bound leaves out what the server needs to read the " +
    "edges and children and to parse and answer (server_cpu_ms has it all). whole_function_ms is the built " +
    "function in its own process, with its logs, metrics and the way there",
  async run(context) {
    const rows: Row[] = [];
    for (const { children, rounds } of context.quick ? QUICK_CASES : CASES) {
      context.note(`${children} children`);
      rows.push(await measure(context, children, rounds));
    }
    return rows;
  },
};

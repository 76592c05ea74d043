import { Redis } from "iovalkey";
import type { BenchContext, Benchmark } from "#bench/benchmark.ts";
import { dispatcher } from "#bench/dispatching.ts";
import { endRoots, eventOf, expectChildren, Outbox, ROUTER, star, submit } from "#bench/flows.ts";
import { alternate, timed } from "#bench/measure.ts";
import { startNetwork } from "#bench/network.ts";
import { atLeast, atMost, type Row } from "#bench/report.ts";
import { dispatchSequentially } from "#bench/sequential.ts";
import { BenchServer, raise } from "#bench/server.ts";

/** One way, in milliseconds: half of a typical round trip between two machines of an Availability Zone. */
const DELAY_MS = 0.33;
const ROUND_TRIPS = 4;
const CASES = [
  { children: 100, rounds: 7 },
  { children: 1_000, rounds: 5 },
];
const QUICK_CASES = [{ children: 50, rounds: 1 }];
const SIZE_WITH_GOALS = 1_000;

async function measure({ core, quick }: BenchContext, children: number, rounds: number): Promise<Row> {
  await using server = await BenchServer.start();
  const flow = await submit(server.valkey, star(children));
  const events = (await endRoots(server.valkey, flow, "success")).map(eventOf);
  const dataset = await server.save();
  await using far = await startNetwork(server.url, DELAY_MS);
  await using near = await startNetwork(server.url, 0);
  using resources = new DisposableStack();
  const dispatcherAt = (url: URL) => {
    const valkey = new core.Valkey({ url, cluster: false }, { onConnectionError: raise });
    resources.defer(() => valkey.close());
    return dispatcher(core, valkey, new Outbox());
  };
  const client = resources.adopt(new Redis({ host: far.url.hostname, port: Number(far.url.port) }), (made) =>
    made.disconnect(),
  );
  const measuring = (run: () => Promise<unknown>) => async (): Promise<number> => {
    await server.restore(dataset);
    const ms = await timed(run);
    await expectChildren(server.valkey, [flow], "eligible");
    return ms;
  };
  const [dispatchFar, dispatchNear] = [dispatcherAt(far.url), dispatcherAt(near.url)];
  const { sluice, undelayed, sequential, ping } = await alternate(rounds, {
    sluice: measuring(() => dispatchFar(events)),
    undelayed: measuring(() => dispatchNear(events)),
    sequential: measuring(async () => {
      for (const event of events) await dispatchSequentially(client, ROUTER, event);
    }),
    ping: () => timed(() => client.ping()),
  });
  const limit = (ROUND_TRIPS * 2 * DELAY_MS + undelayed) * 1.1;
  return {
    what: `${children} children, ${DELAY_MS} ms each way`,
    figures: {
      sluice_ms: sluice,
      sequential_ms: sequential,
      times_sequential: sequential / sluice,
      undelayed_ms: undelayed,
      most_ms: limit,
      ping_ms: ping,
    },
    goals: quick
      ? []
      : [
          ...(children === SIZE_WITH_GOALS
            ? [atLeast("at least 60 times the sequential shape", sequential / sluice, 60)]
            : []),
          atMost("at most 4 round trips' delay + the time without delay + 10 % (ms)", sluice, limit),
        ],
  };
}

export const delay: Benchmark = {
  name: "delay",
  measured:
    "fanout through a proxy that delays each chunk by 0.33 ms in both directions; undelayed_ms is the time through " +
    "the same proxy without a delay, ping_ms one round trip through the proxy",
  notShown: "packet loss, congestion, TLS, limited bandwidth; the proxy itself uses CPU time",
  async run(context) {
    const rows: Row[] = [];
    for (const { children, rounds } of context.quick ? QUICK_CASES : CASES) {
      context.note(`${children} children`);
      rows.push(await measure(context, children, rounds));
    }
    return rows;
  },
};

import { Redis } from "iovalkey";
import type { BenchContext, Benchmark } from "#bench/benchmark.ts";
import { dispatcher } from "#bench/dispatching.ts";
import { alternate, timed } from "#bench/measure.ts";
import { startNetwork } from "#bench/network.ts";
import { atLeast, atMost, type Row } from "#bench/report.ts";
import { endRoots, eventOf, expectChildren, Outbox, ROUTER, star, submit } from "#bench/scenes.ts";
import { dispatchSequentially } from "#bench/sequential.ts";
import { BenchServer, raise } from "#bench/server.ts";

/** One way, in milliseconds: a round trip between two machines of one zone takes twice as long. */
const DELAY_MS = 0.33;
const ROUND_TRIPS = 4;
const CASES = [
  { children: 100, rounds: 7 },
  { children: 1_000, rounds: 5 },
];
const QUICK_CASES = [{ children: 50, rounds: 1 }];
const JUDGED = 1_000;

async function measure({ core, quick }: BenchContext, children: number, rounds: number): Promise<Row> {
  await using server = await BenchServer.start();
  const benchFlow = await submit(server.valkey, star(children));
  const events = (await endRoots(server.valkey, benchFlow, "success")).map(eventOf);
  const kept = await server.keep();
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
  const playing = (play: () => Promise<unknown>) => async (): Promise<number> => {
    await server.putBack(kept);
    const ms = await timed(play);
    await expectChildren(server.valkey, [benchFlow], "eligible");
    return ms;
  };
  const [dispatchFar, dispatchNear] = [dispatcherAt(far.url), dispatcherAt(near.url)];
  const { ours, undelayed, sequential, ping } = await alternate(rounds, {
    ours: playing(() => dispatchFar(events)),
    undelayed: playing(() => dispatchNear(events)),
    sequential: playing(async () => {
      for (const event of events) await dispatchSequentially(client, ROUTER, event);
    }),
    ping: () => timed(() => client.ping()),
  });
  const most = (ROUND_TRIPS * 2 * DELAY_MS + undelayed) * 1.1;
  return {
    what: `${children} children, ${DELAY_MS} ms each way`,
    figures: {
      sluice_ms: ours,
      sequential_ms: sequential,
      times_sequential: sequential / ours,
      undelayed_ms: undelayed,
      most_ms: most,
      ping_ms: ping,
    },
    goals: quick
      ? []
      : [
          ...(children === JUDGED
            ? [atLeast("at least 60 times the sequential shape", sequential / ours, 60)]
            : []),
          atMost("at most 4 round trips' delay + the time without delay + 10 % (ms)", ours, most),
        ],
  };
}

export const delay: Benchmark = {
  name: "delay",
  measured:
    "the same with a proxy that delays each chunk by 0.33 ms in both directions; the time without delay is taken " +
    "through the same proxy set to none. ping_ms is one round trip through the proxy",
  notShown:
    "loss, congestion, TLS, or a bandwidth below loopback's; the proxy takes processor time of its own",
  async run(context) {
    const rows: Row[] = [];
    for (const { children, rounds } of context.quick ? QUICK_CASES : CASES) {
      context.note(`${children} children`);
      rows.push(await measure(context, children, rounds));
    }
    return rows;
  },
};

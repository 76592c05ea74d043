import { type Benchmark, expectEqual } from "#bench/benchmark.ts";
import { dispatchCounted, dispatcher } from "#bench/dispatching.ts";
import { endRoots, eventOf, expectChildren, Outbox, star, submit } from "#bench/flows.ts";
import { alternate, timed } from "#bench/measure.ts";
import { atMost, type Row } from "#bench/report.ts";
import { BenchServer, raise } from "#bench/server.ts";
import { type LocalQueue, startQueue } from "#local/queue.ts";

const CASES = [
  { children: 100, rounds: 9 },
  { children: 1_000, rounds: 7 },
];
const QUICK_CASES = [{ children: 100, rounds: 1 }];
const SIZE_WITH_GOALS = 1_000;

export const skip: Benchmark = {
  name: "skip",
  measured:
    "one completion whose children are all skipped and published to the queue emulator, alternating with the same " +
    "fan-out without skips, and with the publisher alone sending the same messages (the time of the queue)",
  notShown: "SQS itself: the emulator runs in this process, so its time is included",
  async run({ core, quick, note }) {
    const rows: Row[] = [];
    for (const { children, rounds } of quick ? QUICK_CASES : CASES) {
      note(`${children} children`);
      await using server = await BenchServer.start();
      await using queue = await startQueue({ visibilityTimeoutSeconds: 60 });
      const [good, bad] = [
        await submit(server.valkey, star(children)),
        await submit(server.valkey, star(children)),
      ];
      const success = (await endRoots(server.valkey, good, "success")).map(eventOf);
      const failure = (await endRoots(server.valkey, bad, "failed")).map(eventOf);
      const dataset = await server.save();
      using resources = new DisposableStack();
      const valkey = new core.Valkey({ url: server.url, cluster: false }, { onConnectionError: raise });
      resources.defer(() => valkey.close());
      const sqs = resources.adopt(queue.client(), (client) => client.destroy());
      const publisher = new core.SqsCompletionPublisher(sqs, queue.queueUrl);
      const dispatch = dispatcher(core, valkey, publisher);

      const outbox = new Outbox();
      const traffic = await dispatchCounted(core, valkey, outbox, failure, 5);
      expectEqual("published completions", outbox.sent.length, children);
      const figures = await alternate(rounds, {
        fanout: async () => {
          await server.restore(dataset);
          const ms = await timed(() => dispatch(success));
          await expectChildren(server.valkey, [good], "eligible");
          return ms;
        },
        skip: async () => {
          await server.restore(dataset);
          const before = await visible(queue);
          const ms = await timed(() => dispatch(failure));
          await expectChildren(server.valkey, [bad], "skipped");
          expectEqual("messages", (await visible(queue)) - before, children);
          return ms;
        },
        queue: async () => {
          // The other sides restore the dataset as well, and include the garbage collection that follows.
          await server.restore(dataset);
          return timed(() => publisher.send(outbox.sent));
        },
      });
      const withoutQueue = (figures.skip - figures.queue) / figures.fanout;
      rows.push({
        what: `${children} children`,
        figures: {
          skip_ms: figures.skip,
          fanout_ms: figures.fanout,
          queue_ms: figures.queue,
          times_fanout_without_queue: withoutQueue,
          round_trips: traffic.rounds,
          commands: traffic.commands,
        },
        goals:
          quick || children !== SIZE_WITH_GOALS
            ? []
            : [atMost("at most 1.5 times fanout, without the time of the queue", withoutQueue, 1.5)],
      });
    }
    return rows;
  },
};

async function visible(queue: LocalQueue): Promise<number> {
  return (await queue.counts(queue.queueUrl)).visible;
}

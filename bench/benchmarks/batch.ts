import type { Benchmark } from "#bench/benchmark.ts";
import { dispatchCounted, dispatcher } from "#bench/dispatching.ts";
import { alternate, median, timed } from "#bench/measure.ts";
import { atLeast } from "#bench/report.ts";
import {
  type BenchFlow,
  endRoots,
  eventOf,
  expectChildren,
  Outbox,
  ROUTER,
  star,
  submit,
} from "#bench/scenes.ts";
import { dispatchSequentially } from "#bench/sequential.ts";
import { BenchServer, raise } from "#bench/server.ts";
import type { CompletionEvent } from "#shared/contract/message.ts";

/** As many as SQS gives at once. */
const BATCH = 10;
const MOST_EDGES = 5;

export const batch: Benchmark = {
  name: "batch",
  measured:
    "batches of 10 completions with 1 to 5 edges each, every execution in a flow and mostly a partition of its own, " +
    "one batch after the other in one process",
  notShown: "several processes at once, and what receiving and deleting the messages takes",
  async run({ core, quick, note }) {
    const [batches, rounds] = quick ? [2, 1] : [30, 15];
    note("setting the benchFlow");
    await using server = await BenchServer.start();
    const scenes: BenchFlow[] = [];
    const events: CompletionEvent[] = [];
    for (let number = 0; number < batches * BATCH; number += 1) {
      const benchFlow = await submit(server.valkey, star(1 + (number % MOST_EDGES)));
      scenes.push(benchFlow);
      for (const completion of await endRoots(server.valkey, benchFlow, "success"))
        events.push(eventOf(completion));
    }
    const kept = await server.keep();
    using resources = new DisposableStack();
    const valkey = new core.Valkey({ url: server.url, cluster: false }, { onConnectionError: raise });
    resources.defer(() => valkey.close());
    const dispatch = dispatcher(core, valkey, new Outbox());
    const traffic = await dispatchCounted(core, valkey, new Outbox(), events.slice(0, BATCH), 4);
    const callMs: number[] = [];
    note("dispatching");
    const { ours, sequential } = await alternate(rounds, {
      ours: async () => {
        await server.putBack(kept);
        await server.resetCommandTimes();
        const ms = await timed(async () => {
          for (let start = 0; start < events.length; start += BATCH) {
            await dispatch(events.slice(start, start + BATCH));
          }
        });
        callMs.push((await server.commandTime("fcall")).micros / 1_000);
        await expectChildren(server.valkey, scenes, "eligible");
        return ms;
      },
      sequential: async () => {
        await server.putBack(kept);
        const ms = await timed(async () => {
          for (const event of events) await dispatchSequentially(server.client, ROUTER, event);
        });
        await expectChildren(server.valkey, scenes, "eligible");
        return ms;
      },
    });
    const bound = median(callMs);
    return [
      {
        what: `${batches} batches of ${BATCH}, 1 to ${MOST_EDGES} edges`,
        figures: {
          executions_per_second: (events.length / ours) * 1_000,
          batch_ms: ours / batches,
          sequential_batch_ms: sequential / batches,
          times_sequential: sequential / ours,
          fcall_batch_ms: bound / batches,
          of_bound: bound / ours,
          round_trips: traffic.rounds,
          commands: traffic.commands,
        },
        goals: quick
          ? []
          : [
              atLeast("at least 6 times the sequential shape", sequential / ours, 6),
              atLeast("at least 0.6 of the bound", bound / ours, 0.6),
            ],
      },
    ];
  },
};

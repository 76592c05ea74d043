import type { Benchmark } from "#bench/benchmark.ts";
import { dispatchCounted, dispatcher } from "#bench/dispatching.ts";
import {
  type BenchFlow,
  endRoots,
  eventOf,
  expectChildren,
  Outbox,
  ROUTER,
  star,
  submit,
} from "#bench/flows.ts";
import { alternate, median, timed } from "#bench/measure.ts";
import { atLeast } from "#bench/report.ts";
import { dispatchSequentially } from "#bench/sequential.ts";
import { BenchServer, raise } from "#bench/server.ts";
import type { CompletionEvent } from "#shared/contract/message.ts";

/** The maximum of SQS. */
const BATCH = 10;
const MAX_EDGES = 5;

export const batch: Benchmark = {
  name: "batch",
  measured:
    "batches of 10 completions with 1 to 5 edges each, every execution in a separate flow and mostly a separate " +
    "partition, one batch after the other in one process",
  notShown: "concurrent processes, and receiving and deleting the messages",
  async run({ core, quick, note }) {
    const [batches, rounds] = quick ? [2, 1] : [30, 15];
    note("submitting flows");
    await using server = await BenchServer.start();
    const flows: BenchFlow[] = [];
    const events: CompletionEvent[] = [];
    for (let number = 0; number < batches * BATCH; number += 1) {
      const flow = await submit(server.valkey, star(1 + (number % MAX_EDGES)));
      flows.push(flow);
      for (const completion of await endRoots(server.valkey, flow, "success"))
        events.push(eventOf(completion));
    }
    const dataset = await server.save();
    using resources = new DisposableStack();
    const valkey = new core.Valkey({ url: server.url, cluster: false }, { onConnectionError: raise });
    resources.defer(() => valkey.close());
    const dispatch = dispatcher(core, valkey, new Outbox());
    const traffic = await dispatchCounted(core, valkey, new Outbox(), events.slice(0, BATCH), 4);
    const callMs: number[] = [];
    note("dispatching");
    const { sluice, sequential } = await alternate(rounds, {
      sluice: async () => {
        await server.restore(dataset);
        await server.resetCommandTimes();
        const ms = await timed(async () => {
          for (let start = 0; start < events.length; start += BATCH) {
            await dispatch(events.slice(start, start + BATCH));
          }
        });
        callMs.push((await server.commandTime("fcall")).micros / 1_000);
        await expectChildren(server.valkey, flows, "eligible");
        return ms;
      },
      sequential: async () => {
        await server.restore(dataset);
        const ms = await timed(async () => {
          for (const event of events) await dispatchSequentially(server.client, ROUTER, event);
        });
        await expectChildren(server.valkey, flows, "eligible");
        return ms;
      },
    });
    const bound = median(callMs);
    return [
      {
        what: `${batches} batches of ${BATCH}, 1 to ${MAX_EDGES} edges`,
        figures: {
          executions_per_second: (events.length / sluice) * 1_000,
          batch_ms: sluice / batches,
          sequential_batch_ms: sequential / batches,
          times_sequential: sequential / sluice,
          fcall_batch_ms: bound / batches,
          of_bound: bound / sluice,
          round_trips: traffic.rounds,
          commands: traffic.commands,
        },
        goals: quick
          ? []
          : [
              atLeast("at least 6 times the sequential shape", sequential / sluice, 6),
              atLeast("at least 0.6 of the bound", bound / sluice, 0.6),
            ],
      },
    ];
  },
};

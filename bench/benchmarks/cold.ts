import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Benchmark } from "#bench/benchmark.ts";
import { functionOptions, sqsEventOf } from "#bench/dispatching.ts";
import { type StartTimes, timeStart } from "#bench/function-start.ts";
import { median } from "#bench/measure.ts";
import { atMost } from "#bench/report.ts";
import { endRoots, expectChildren, star, submit } from "#bench/scenes.ts";
import { BenchServer } from "#bench/server.ts";

const EMPTY = "export const handler = async () => ({ batchItemFailures: [] });\n";

export const cold: Benchmark = {
  name: "cold",
  measured:
    "a fresh process from its start to the built handler being there, and to its first answer to one completion " +
    "with one child, in turns with an empty handler in the same runtime",
  notShown: "Lambda's own start (fetching the code, the sandbox), which both would have",
  async run({ quick }) {
    const rounds = quick ? 2 : 31;
    await using server = await BenchServer.start();
    const scene = await submit(server.valkey, star(1));
    const event = sqsEventOf(await endRoots(server.valkey, scene, "success"));
    const folder = await mkdtemp(join(tmpdir(), "sluice-bench-"));
    const times = { ours: [] as StartTimes[], empty: [] as StartTimes[] };
    try {
      const empty = join(folder, "empty.mjs");
      await writeFile(empty, EMPTY);
      const options = functionOptions({ name: "dispatch", valkeyUrl: server.url });
      for (let round = 0; round <= rounds; round += 1) {
        const ours = await timeStart(options, event);
        const other = await timeStart({ ...options, bundle: empty }, event);
        if (round === 0) continue;
        times.ours.push(ours);
        times.empty.push(other);
      }
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
    await expectChildren(server.valkey, [scene], "eligible");
    const ready = median(times.ours.map(({ readyMs }) => readyMs));
    const emptyReady = median(times.empty.map(({ readyMs }) => readyMs));
    const answer = median(times.ours.map(({ answerMs }) => answerMs));
    return [
      {
        what: "dispatch",
        figures: {
          ready_ms: ready,
          empty_ready_ms: emptyReady,
          above_empty_ms: ready - emptyReady,
          answer_ms: answer,
          empty_answer_ms: median(times.empty.map(({ answerMs }) => answerMs)),
          first_answer_after_ready_ms: answer - ready,
        },
        goals: quick
          ? []
          : [atMost("ready at most 60 ms after an empty handler (ms)", ready - emptyReady, 60)],
      },
    ];
  },
};

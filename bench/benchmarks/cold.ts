import { mkdtemp, readdir, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { Benchmark } from "#bench/benchmark.ts";
import { functionOptions, sqsEventOf } from "#bench/dispatching.ts";
import { endRoots, expectChildren, star, submit } from "#bench/flows.ts";
import { type StartTimes, timeStart } from "#bench/function-start.ts";
import { median } from "#bench/measure.ts";
import { atMost } from "#bench/report.ts";
import { BenchServer } from "#bench/server.ts";

const EMPTY = "export const handler = async () => ({ batchItemFailures: [] });\n";

export const cold: Benchmark = {
  name: "cold",
  measured:
    "a new process from its start until the built handler is loaded, and until its first response to one completion " +
    "with one child, alternating with an empty handler in the same runtime; and the size of the function's code",
  notShown: "the start of the Lambda sandbox and the download of the code, which both would have",
  async run({ quick }) {
    const rounds = quick ? 2 : 31;
    await using server = await BenchServer.start();
    const flow = await submit(server.valkey, star(1));
    const event = sqsEventOf(await endRoots(server.valkey, flow, "success"));
    const folder = await mkdtemp(join(tmpdir(), "sluice-bench-"));
    const options = functionOptions({ name: "dispatch", valkeyUrl: server.url });
    const times = { sluice: [] as StartTimes[], empty: [] as StartTimes[] };
    try {
      const empty = join(folder, "empty.mjs");
      await writeFile(empty, EMPTY);
      for (let round = 0; round <= rounds; round += 1) {
        const sluice = await timeStart(options, event);
        const other = await timeStart({ ...options, bundle: empty }, event);
        if (round === 0) continue;
        times.sluice.push(sluice);
        times.empty.push(other);
      }
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
    await expectChildren(server.valkey, [flow], "eligible");
    const ready = median(times.sluice.map(({ readyMs }) => readyMs));
    const emptyReady = median(times.empty.map(({ readyMs }) => readyMs));
    const answer = median(times.sluice.map(({ answerMs }) => answerMs));
    const codeKb = await codeSize(dirname(options.bundle));
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
          code_kb: codeKb,
        },
        goals: quick
          ? []
          : [
              atMost("ready at most 60 ms after an empty handler (ms)", ready - emptyReady, 60),
              atMost("all of the function's code at most 530 KB", codeKb, 530),
            ],
      },
    ];
  },
};

/** The size of all deployed code in KB, without source maps. */
async function codeSize(folder: string): Promise<number> {
  const names = (await readdir(folder)).filter((name) => name.endsWith(".mjs"));
  const sizes = await Promise.all(names.map(async (name) => (await stat(join(folder, name))).size));
  return sizes.reduce((total, size) => total + size, 0) / 1024;
}

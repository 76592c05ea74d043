import { setTimeout as sleep } from "node:timers/promises";
import { type Benchmark, expectEqual, UnexpectedResultError } from "#bench/benchmark.ts";
import { type BenchFlow, endRoots, expectChildren, ROUTER, submit, tree } from "#bench/flows.ts";
import { atLeast, atMost, type Row } from "#bench/report.ts";
import { type Stack, startStack } from "#local/stack.ts";
import { command } from "#shared/contract/command.ts";

const SIZES = [1_000, 10_000, 100_000];
const QUICK_SIZES = [200];
const SIZE_WITH_GOALS = 10_000;
const POLL_MS = 5;
const DEADLINE_MS = 600_000;

/** Waits until all executions have ended and the queue is empty. */
async function untilOver({ valkey, queue }: Stack, { plan }: BenchFlow): Promise<void> {
  const lane = plan.tasks[0]?.task.lane;
  if (lane === undefined) return;
  const { partition } = plan.flow;
  const ended = command(partition, "zcard", plan.index.lane(lane).terminal);
  for (const begun = performance.now(); performance.now() - begun < DEADLINE_MS; await sleep(POLL_MS)) {
    const [result] = await valkey.pipelined([ended]);
    if (!result?.ok || Number(result.value) < plan.tasks.length) continue;
    const { visible, inFlight } = await queue.counts(queue.queueUrl);
    if (visible + inFlight === 0) return;
  }
  throw new UnexpectedResultError("the cascade did not end in time");
}

async function measure(size: number): Promise<{ seconds: number; maxDepth: number; deliveries: number }> {
  await using stack = await startStack({
    router: ROUTER,
    maxCascadeDepth: 50,
    onError: (error) => {
      throw new UnexpectedResultError(error);
    },
    visibilityTimeoutSeconds: 60,
  });
  const flow = await submit(stack.valkey, tree(size));
  const completions = await endRoots(stack.valkey, flow, "failed");
  const begun = performance.now();
  await stack.completions.send(completions);
  await untilOver(stack, flow);
  const seconds = (performance.now() - begun) / 1_000;
  await expectChildren(stack.valkey, [flow], "skipped");
  const { messages, deliveries, maxDepth } = stack.poller.counts;
  expectEqual("messages", messages, size + 1);
  return { seconds, deliveries, maxDepth };
}

export const cascade: Benchmark = {
  name: "cascade",
  measured:
    "the root of a tree (each task leads to ten) fails and everything below it is skipped, through the queue " +
    "emulator, the poller and two processes of the built function: from the first message sent to the last one " +
    "deleted, including the start of the functions",
  notShown:
    "SQS and Lambda, which poll with more processes and take longer per message; here the emulator and the poller " +
    "share one process and are the bottleneck",
  async run({ quick, note }) {
    const rows: Row[] = [];
    let base = 0;
    for (const size of quick ? QUICK_SIZES : SIZES) {
      note(`${size} executions`);
      const { seconds, maxDepth, deliveries } = await measure(size);
      const perSecond = size / seconds;
      if (size === SIZE_WITH_GOALS) base = perSecond;
      const goals = [];
      if (size === SIZE_WITH_GOALS)
        goals.push(atLeast("at least 2,000 executions a second", perSecond, 2_000));
      if (size > SIZE_WITH_GOALS)
        goals.push(atMost("linear: time for each at most 1.3 times that of 10,000", base / perSecond, 1.3));
      rows.push({
        what: `${size} executions`,
        figures: { executions_per_second: perSecond, seconds, max_depth: maxDepth, deliveries },
        goals,
      });
    }
    return rows;
  },
};

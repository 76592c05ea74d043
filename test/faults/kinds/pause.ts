/** The function process, or the server for all its clients, pauses for ten seconds during a dispatch. */

import { setTimeout as sleep } from "node:timers/promises";
import {
  type CaseContext,
  type FaultKind,
  runToEnd,
  runToEndWithFault,
  UnsuitableCaseError,
} from "#test/faults/case.ts";
import { redeliverWhileHeld } from "#test/faults/concurrent-delivery.ts";
import { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { randomGraph } from "#test/faults/graph.ts";
import { Standalone } from "#test/faults/servers.ts";
import { VALKEY_POINTS, WORKING_POINTS } from "#test/faults/steps.ts";
import { TestBed } from "#test/faults/test-bed.ts";

const PAUSE_MS = 10_000;

export const pause: FaultKind = {
  name: "pause",
  cases: { full: 9, quick: 3 },
  startTestBed: async () => TestBed.start(await Standalone.start()),
  run: async (context) => {
    const { bed, random } = context;
    const flow = await FlowUnderTest.build(bed, random, randomGraph(random));
    const modes = ["process", "WRITE", "ALL"] as const;
    const mode = modes[context.number % modes.length] ?? "process";
    if (mode === "process") await stopProcess(context, flow);
    else {
      await runToEndWithFault(context, flow, {
        points: VALKEY_POINTS,
        times: 1,
        inject: async () => {
          await bed.valkey.call("client", "PAUSE", PAUSE_MS, mode);
          return "pass";
        },
      });
    }
    return flow.compareWithModel();
  },
};

/** Stops one function process with SIGSTOP, while another one runs the flow to its end. */
async function stopProcess(context: CaseContext, flow: FlowUnderTest): Promise<void> {
  const { bed } = context;
  await using second = bed.startFunction();
  let isStopped = false;
  await runToEnd(context, flow, async (records) => {
    if (isStopped) {
      await bed.deliver(records);
      return;
    }
    const first = await redeliverWhileHeld(context, records, WORKING_POINTS, second, () => {
      const { pid } = bed.fn;
      if (pid === undefined) throw new Error("the function has no process");
      process.kill(pid, "SIGSTOP");
      isStopped = true;
      return Promise.resolve();
    });
    if (first === undefined) return;
    const paused = sleep(PAUSE_MS);
    await runToEnd(context, flow, (others) => bed.deliver(others, second));
    await paused;
    const { pid } = bed.fn;
    if (pid !== undefined) process.kill(pid, "SIGCONT");
    await bed.settle(records, await first.end);
  });
  if (!isStopped) throw new UnsuitableCaseError("no delivery reached an injection point");
}

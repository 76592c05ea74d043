/** Lanes that an operator has paused: no attempt begins, no message is lost, and none comes closer to the dead-letter queue. */

import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { defineTask } from "#sdk/kit/define-task.ts";
import { PARK_SECONDS } from "#sdk/kit/lane-pauses.ts";
import { LanePool } from "#sdk/kit/lane-pool.ts";
import { TaskRegistry } from "#sdk/kit/registry.ts";
import type { Pipelines } from "#shared/contract/command.ts";
import { PAUSED_LANES_KEY } from "#shared/contract/keys.ts";
import { PublishError, ValkeyError } from "#shared/errors.ts";
import type { ReadyExecution } from "#shared/ready/message.ts";
import { pauseLane, resumeLane } from "#shared/ready/paused-lanes.ts";
import { LANE, LambdaBed } from "#test/kit/lambda-bed.ts";

const WAIT = { timeout: 8_000, interval: 20 };
const ONE = { name: "one", tasks: [{ id: "a" }] };
const CHAIN = { name: "chain", tasks: [{ id: "a" }, { id: "b", dependsOn: ["a"] }] };

let bed: LambdaBed;
let runs: string[] = [];
const task = defineTask({
  kind: "task",
  timeout: "20s",
  run: async (_input, { executionId }) => {
    runs.push(executionId);
  },
});

beforeEach(async () => {
  runs = [];
  bed = await LambdaBed.start(["default"]);
});
afterEach(() => bed[Symbol.asyncDispose]());

const pause = () =>
  bed.bed.valkey.pipelined([pauseLane(LANE, { pausedAtMs: Date.now(), actor: "test", reason: "" })]);
const resume = () => bed.bed.valkey.pipelined([resumeLane(LANE)]);
const counts = () => bed.bed.queue.counts(bed.urlOf("default"));

describe("a Lambda worker", () => {
  it("sends the message of a paused lane anew with a delay, and acknowledges it", async () => {
    const submission = await bed.bed.submit(ONE);
    await pause();
    expect(await bed.deliver([task], await bed.receive())).toEqual({ failed: [] });
    expect(await counts()).toMatchObject({ visible: 0, inFlight: 0, delayed: 1 });
    expect(runs).toEqual([]);
    expect((await bed.record(submission, "a")).eligibility_state).toBe("eligible_now");
  });

  it("sends the same message, delayed, and runs it after the lane is resumed", async () => {
    const submission = await bed.bed.submit(ONE);
    await pause();
    const announced: ReadyExecution[] = [];
    const ready = {
      announces: () => true,
      announce: (sent: readonly ReadyExecution[]) => {
        announced.push(...sent);
        return Promise.resolve(sent.map(() => ({ ok: true as const })));
      },
    };
    const records = await bed.receive();
    await bed.deliver([task], records, { ports: { ready } });
    const id = submission.executions.get("a");
    expect(announced).toMatchObject([
      { executionId: id, flowId: submission.flowId, lane: LANE, kind: "task", delaySeconds: PARK_SECONDS },
    ]);
    await resume();
    // The message that was parked says the same as this one.
    await bed.deliver([task], records);
    expect(runs).toEqual([id]);
  });

  it("keeps the message if the queue does not accept the new one", async () => {
    await bed.bed.submit(ONE);
    await pause();
    const ready = {
      announces: () => true,
      announce: () =>
        Promise.resolve([{ ok: false as const, error: new PublishError("no answer", "unknown") }]),
    };
    const records = await bed.receive();
    const { failed } = await bed.deliver([task], records, { ports: { ready } });
    expect(failed).toEqual([records[0]?.messageId]);
    expect(runs).toEqual([]);
  });

  it("does not take over an execution whose lease ran out in a paused lane", async () => {
    const submission = await bed.bed.submit(ONE);
    const records = await bed.receive();
    const lost = defineTask({
      kind: "task",
      timeout: "20s",
      run: () => bed.lapse(submission, "a"),
    });
    await bed.deliver([lost], records);
    await pause();
    await bed.deliver([task], records);
    expect(runs).toEqual([]);
    await resume();
    await bed.deliver([task], records);
    expect(runs).toHaveLength(1);
  });

  it("does not run a child that became eligible in a paused lane, and updates the children of a run that was begun", async () => {
    const submission = await bed.bed.submit(CHAIN);
    const first = defineTask({ kind: "task", timeout: "20s", run: async () => void (await pause()) });
    await bed.deliver([first], await bed.receive());
    expect((await bed.record(submission, "a")).public_state).toBe("completed");
    await bed.deliver([task], await bed.receive());
    expect((await bed.record(submission, "b")).eligibility_state).toBe("eligible_now");
    expect(runs).toEqual([]);
  });

  it("works while the pauses cannot be read", async () => {
    await bed.bed.submit(ONE);
    await pause();
    const valkey: Pipelines = {
      pipelined: async (commands) => {
        const results = await bed.bed.valkey.pipelined(commands);
        const isPause = commands.some(({ args }) => args[0] === PAUSED_LANES_KEY);
        return isPause ? results.map(() => ({ ok: false, error: new ValkeyError("down") })) : results;
      },
    };
    await bed.deliver([task], await bed.receive(), { ports: { valkey } });
    expect(runs).toHaveLength(1);
    expect(bed.warnings).toContain("paused lanes not read, the last known ones count");
  });
});

describe.each([
  ["with a ready queue", false],
  ["that polls", true],
])("a container worker %s", (_, polls) => {
  it("takes nothing from a paused lane, and goes on when it is resumed", async () => {
    await pause();
    const submission = await bed.bed.submit(CHAIN);
    let looked = 0;
    const valkey: Pipelines = {
      pipelined: async (commands) => {
        const results = await bed.bed.valkey.pipelined(commands);
        if (commands.some(({ args }) => args[0] === PAUSED_LANES_KEY)) looked += 1;
        return results;
      },
    };
    const { router, completions } = bed.ports();
    using pool = new LanePool(
      {
        valkey,
        router,
        sqs: bed.bed.client,
        completions,
        readyQueueUrls: polls ? new Map() : bed.bed.readyQueues,
        dispatch: "inline",
        telemetry: bed.telemetry,
        metrics: bed.metrics,
        ensureLibrary: () => Promise.resolve(),
      },
      new TaskRegistry([task]),
      new Map([[LANE, 2]]),
    );
    const stop = new AbortController();
    const stopped = pool.run(stop.signal, 20_000);
    try {
      await expect.poll(() => looked, WAIT).toBeGreaterThanOrEqual(2);
      expect(runs).toEqual([]);
      expect(await counts()).toMatchObject({ visible: 1, inFlight: 0, delayed: 0 });
      await resume();
      await expect.poll(() => runs, WAIT).toEqual(["a", "b"].map((id) => submission.executions.get(id)));
    } finally {
      stop.abort();
      await stopped;
    }
  });
});

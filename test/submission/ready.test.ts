/** The ready messages of roots. */

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Submission, submitFlow } from "#sdk/submission/submit.ts";
import type { Workflow } from "#sdk/submission/workflow.ts";
import type { Pipelines } from "#shared/contract/command.ts";
import { type FlowId, parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { readyMarksKey } from "#shared/contract/keys.ts";
import { SubmissionError } from "#shared/errors.ts";
import type { ReadyExecution } from "#shared/ready/message.ts";
import type { ReadyPublisher } from "#shared/ready/publisher.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { InterceptedPipelines, RecordingPublisher, recordOf, task } from "#test/submission/fixture.ts";
import { idOf, submit } from "#test/submission/flow-checks.ts";
import { DEATHS, DyingValkey, losingReplies } from "#test/support/dying-valkey.ts";
import { newFlowId, ROUTER } from "#test/support/flow-fixture.ts";
import { RecordedReady } from "#test/support/ready.ts";
import { DEPLOYMENTS_OF_BOTH, fieldsOf, run } from "#test/support/valkey.ts";

const SILENT = unwrap(parseLaneId("without-a-queue"));
/** Three roots, one of them delayed and one of them in a lane without a queue, and a child. */
const WORKFLOW: Workflow = {
  name: "test",
  tasks: [
    task("now", { kind: "resize" }),
    task("soon", { delaySeconds: 600 }),
    task("polled", { lane: SILENT }),
    task("late", { delaySeconds: 901 }),
    task("child"),
  ],
  edges: [{ from: "now", to: "child", dataPassing: false }],
};

function submitReady(
  valkey: Pipelines,
  ready: ReadyPublisher,
  flowId: FlowId = newFlowId(),
): Promise<Submission> {
  const completions = new RecordingPublisher();
  return submitFlow({ valkey, router: ROUTER, completions, ready }, WORKFLOW, { flowId });
}

describe.each(DEPLOYMENTS_OF_BOTH)("a submission with ready queues ($name, $edition KEYS)", ({ connect }) => {
  let valkey: Valkey;
  beforeAll(() => {
    valkey = connect();
  });
  afterAll(() => valkey.close());

  const completedAt = (flowId: FlowId) => {
    const { core, partition } = ROUTER.flowKeys(flowId);
    return run(valkey, partition, "hget", core, "submission_completed_at");
  };
  const marks = async ({ flowId, partition }: Submission) =>
    fieldsOf(await run(valkey, partition, "hgetall", readyMarksKey(partition, flowId)));

  test("announces the roots that can run, or soon can, just before the flow is complete", async () => {
    const flowId = newFlowId();
    const found: unknown[] = [];
    class Looking extends RecordedReady {
      override async announce(ready: readonly ReadyExecution[]) {
        found.push(await completedAt(flowId));
        for (const { executionId } of ready) {
          found.push((await recordOf(valkey, executionId, "public_state")).public_state);
        }
        return super.announce(ready);
      }
    }
    const ready = new Looking();
    const submission = await submitReady(valkey, ready, flowId);
    expect(found).toEqual([null, "waiting", "delayed"]);
    expect(await completedAt(flowId)).not.toBeNull();
    const [now, soon] = [idOf(submission, "now"), idOf(submission, "soon")];
    expect(ready.announced).toEqual([
      { executionId: now, flowId, lane: "default", kind: "resize", delaySeconds: 0 },
      { executionId: soon, flowId, lane: "default", kind: "task", delaySeconds: expect.any(Number) },
    ]);
    // Server time: some of the delay has passed, and the rest is rounded up.
    expect(ready.announced[1]?.delaySeconds).toBeGreaterThan(500);
    expect(ready.announced[1]?.delaySeconds).toBeLessThanOrEqual(600);
    const uuidOf = (id: string) => id.slice(id.indexOf("}:") + 2);
    expect(await marks(submission)).toEqual({ [uuidOf(now)]: "0:0", [uuidOf(soon)]: "0:0" });
  });

  test("announces nothing the second time, and again what is eligible once more", async () => {
    const flowId = newFlowId();
    const ready = new RecordedReady();
    const submission = await submitReady(valkey, ready, flowId);
    await submitReady(valkey, ready, flowId);
    expect(ready.announced).toHaveLength(2);
    // As after a retry.
    const { core, partition } = ROUTER.execKeys(idOf(submission, "now"));
    await run(valkey, partition, "hset", core, "total_attempt_count", 1);
    await submitReady(valkey, ready, flowId);
    expect(ready.ids.slice(2)).toEqual([idOf(submission, "now")]);
  });

  test("does not announce a root that a worker has claimed or that has ended", async () => {
    const flowId = newFlowId();
    const submission = await submit(valkey, WORKFLOW, flowId);
    const { core, partition } = ROUTER.execKeys(idOf(submission, "now"));
    await run(valkey, partition, "hset", core, "lifecycle_phase", "active", "ownership_state", "leased");
    const ready = new RecordedReady();
    await submitReady(valkey, ready, flowId);
    expect(ready.ids).toEqual([idOf(submission, "soon")]);
  });

  test("is not complete if a message is not accepted, and the next one sends only that message", async () => {
    const flowId = newFlowId();
    const ready = new RecordedReady();
    ready.fail = (position) => position === 0;
    const error = await submitReady(valkey, ready, flowId).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(SubmissionError);
    expect(error).toMatchObject({ retryable: true });
    expect(await completedAt(flowId)).toBeNull();
    ready.fail = undefined;
    const submission = await submitReady(valkey, ready, flowId);
    expect(ready.ids).toEqual([idOf(submission, "soon"), idOf(submission, "now")]);
    expect(await completedAt(flowId)).not.toBeNull();
  });

  test.each(DEATHS)("a process may die at any pipeline: %s", async (death) => {
    for (let at = 0; ; at += 1) {
      const flowId = newFlowId();
      const ready = new RecordedReady();
      const dying = new DyingValkey(valkey, at, death);
      const ended = await submitReady(dying, ready, flowId).then(
        () => "complete",
        () => "died",
      );
      expect(ended).toBe(dying.hasDied ? "died" : "complete");
      // A complete flow has announced its roots: the reconciler relies on it.
      if ((await completedAt(flowId)) !== null) expect(ready.announced).toHaveLength(2);
      const submission = await submitReady(valkey, ready, flowId);
      const ids = [idOf(submission, "now"), idOf(submission, "soon")].sort();
      expect([...new Set(ready.ids)].sort()).toEqual(ids);
      expect(ready.announced.length).toBeLessThanOrEqual(4);
      if (!dying.hasDied) return;
    }
  });

  test("a process may die between the send and the mark: the next submission sends once more", async () => {
    const flowId = newFlowId();
    const ready = new RecordedReady();
    const dying = new InterceptedPipelines(valkey, (_, send) =>
      ready.announced.length > 0 ? Promise.reject(new Error("the process died")) : send(),
    );
    await expect(submitReady(dying, ready, flowId)).rejects.toThrow("died");
    expect(ready.announced).toHaveLength(2);
    await submitReady(valkey, ready, flowId);
    expect(ready.announced).toHaveLength(4);
    await submitReady(valkey, ready, flowId);
    expect(ready.announced).toHaveLength(4);
  });

  test("any reply may be lost: the next submission announces what is not known to be announced", async () => {
    for (let at = 0; ; at += 1) {
      const flowId = newFlowId();
      const ready = new RecordedReady();
      const losing = losingReplies(valkey, at);
      await submitReady(losing, ready, flowId).catch(() => undefined);
      await submitReady(valkey, ready, flowId);
      expect(new Set(ready.ids).size).toBe(2);
      expect(ready.announced.length).toBeLessThanOrEqual(4);
      if (!losing.hasLost()) return;
    }
  });

  test("writes and reads nothing more without ready queues", async () => {
    const counter = new InterceptedPipelines(valkey, (_, send) => send());
    const submission = await submit(counter, WORKFLOW);
    const announced = new InterceptedPipelines(valkey, (_, send) => send());
    await submitReady(announced, new RecordedReady());
    expect(announced.calls - counter.calls).toBe(2);
    expect(await marks(submission)).toEqual({});
  });
});

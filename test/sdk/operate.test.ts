/** `replayExecution` and `completeExecution`, with the functions and workers of a test stack. */

import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { startTestStack, type TestStack } from "#local/test-stack.ts";
import { defineTask } from "#sdk/kit/define-task.ts";
import { replayExecution } from "#sdk/replay-execution.ts";
import type { Submission } from "#sdk/submission/submit.ts";
import { completeExecution } from "#sdk/worker/complete-execution.ts";
import { command } from "#shared/contract/command.ts";
import type { ExecutionId } from "#shared/contract/ids.ts";
import { PublishError, RefusedError } from "#shared/errors.ts";

let stack: TestStack;
let fails: boolean;
let runs: number;
const task = defineTask({
  kind: "task",
  run: () => {
    runs += 1;
    if (fails) throw new Error("the disk is full");
    return { runs };
  },
});

beforeAll(async () => {
  stack = await startTestStack({ tasks: [task], lanes: ["people"] });
});
beforeEach(() => {
  fails = false;
  runs = 0;
});
afterAll(() => stack.stop());

const CHAIN = {
  name: "chain",
  tasks: [{ id: "first" }, { id: "second", dependsOn: ["first"] }, { id: "third", dependsOn: ["second"] }],
};
const APPROVAL = {
  name: "approval",
  tasks: [
    { id: "approve", lane: "people" },
    { id: "publish", dependsOn: ["approve"] },
  ],
};

function idOf({ executions }: Submission, id: string): ExecutionId {
  const execution = executions.get(id);
  if (execution === undefined) throw new Error(`there is no task ${id}`);
  return execution;
}

async function field(id: ExecutionId, name: string): Promise<unknown> {
  const { partition, core } = stack.router.execKeys(id);
  const [result] = await stack.valkey.pipelined([command(partition, "hget", core, name)]);
  return result?.ok ? result.value : result?.error;
}

describe("replayExecution", () => {
  test("runs a failed execution again, and then its skipped descendants", async () => {
    fails = true;
    const { flow, tasks } = await stack.run(CHAIN);
    expect([...tasks.values()].map(({ state }) => state)).toEqual(["failed", "skipped", "skipped"]);
    fails = false;
    // From the last to the first: otherwise the first may succeed before the others wait for it.
    expect(await replayExecution(stack, idOf(flow, "third"))).toEqual({ status: "replayed", unsatisfied: 1 });
    expect(await replayExecution(stack, idOf(flow, "second"))).toEqual({
      status: "replayed",
      unsatisfied: 1,
    });
    expect(await replayExecution(stack, idOf(flow, "first"))).toEqual({ status: "replayed", unsatisfied: 0 });
    const again = await stack.waitForEnd(flow);
    expect([...again.tasks.values()].map(({ state }) => state)).toEqual(["success", "success", "success"]);
    expect(runs).toBe(4);
  });

  test("announces the execution when it is called again after an announcement that failed", async () => {
    const { flow } = await stack.run({ name: "one", tasks: [{ id: "only" }] });
    const refusing = {
      announces: () => true,
      announce: (ready: readonly unknown[]) =>
        Promise.resolve(
          ready.map(() => ({ ok: false as const, error: new PublishError("down", "refused") })),
        ),
    };
    const id = idOf(flow, "only");
    await expect(replayExecution({ ...stack, ready: refusing }, id)).rejects.toThrow(PublishError);
    expect(await replayExecution(stack, id)).toEqual({ status: "repeated", unsatisfied: 0 });
    expect((await stack.waitForEnd(flow)).tasks.get("only")?.result).toEqual({ runs: 2 });
  });

  test("refuses an execution that has not ended, and one that does not exist", async () => {
    const flow = await stack.submit(APPROVAL);
    const id = idOf(flow, "approve");
    await expect(replayExecution(stack, id)).rejects.toMatchObject({ code: "execution_not_terminal" });
    await completeExecution(stack, id, { outcome: "success", result: "" });
    await stack.waitForEnd(flow);
    const { partition, core } = stack.router.execKeys(id);
    await stack.valkey.pipelined([command(partition, "del", core)]);
    await expect(replayExecution(stack, id)).rejects.toThrow(RefusedError);
  });
});

describe("completeExecution", () => {
  test("ends an execution in place of a worker, and its children run", async () => {
    const flow = await stack.submit(APPROVAL);
    const result = JSON.stringify({ approvedBy: "ada" });
    const id = idOf(flow, "approve");
    expect(await completeExecution(stack, id, { outcome: "success", result })).toEqual({ status: "ended" });
    const { tasks } = await stack.waitForEnd(flow);
    expect(tasks.get("approve")?.result).toEqual({ approvedBy: "ada" });
    expect(tasks.get("publish")?.state).toBe("success");
    expect(await completeExecution(stack, id, { outcome: "success", result: "" })).toEqual({
      status: "already_ended",
      outcome: "success",
    });
  });

  test("a failure is final although the task has retries, and skips the children", async () => {
    const [approve, ...others] = APPROVAL.tasks;
    const flow = await stack.submit({
      ...APPROVAL,
      tasks: [{ ...approve, retry: { attempts: 3 } }, ...others],
    });
    const refused = { outcome: "failed", reason: "not this one" } as const;
    expect(await completeExecution(stack, idOf(flow, "approve"), refused)).toEqual({ status: "ended" });
    const { tasks } = await stack.waitForEnd(flow);
    expect(tasks.get("approve")).toMatchObject({ state: "failed", reason: "not this one" });
    expect(tasks.get("publish")?.state).toBe("skipped");
  });

  test("leaves an execution that waits for its dependencies as it is", async () => {
    const flow = await stack.submit(APPROVAL);
    const id = idOf(flow, "publish");
    expect(await completeExecution(stack, id, { outcome: "success", result: "" })).toEqual({
      status: "not_claimable",
      state: "blocked_by_dependencies",
    });
    expect(await field(id, "lifecycle_phase")).toBe("runnable");
  });

  test("of two calls at once, one ends the execution", async () => {
    const flow = await stack.submit(APPROVAL);
    const id = idOf(flow, "approve");
    const calls = ["a", "b"].map((result) => completeExecution(stack, id, { outcome: "success", result }));
    const statuses = (await Promise.all(calls)).map(({ status }) => status);
    expect(statuses.filter((status) => status === "ended")).toHaveLength(1);
    await stack.waitForEnd(flow);
  });
});

/** The commands that repair executions, with the functions, ready queues and a worker of a test stack. */

import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { startTestStack, type TestStack } from "#local/test-stack.ts";
import { defineTask } from "#sdk/kit/define-task.ts";
import type { Submission } from "#sdk/submission/submit.ts";
import { parseOutput, sluice } from "#test/cli/support.ts";

let stack: TestStack;
let fails: boolean;
const before = { ...process.env };
const task = defineTask({
  kind: "task",
  run: () => {
    if (fails) throw new Error("the disk is full");
    return "done";
  },
});

beforeAll(async () => {
  stack = await startTestStack({ tasks: [task], lanes: ["people"] });
  // The AWS SDK reads the variables of the process.
  Object.assign(process.env, stack.environment);
});
beforeEach(() => {
  fails = false;
});
afterAll(async () => {
  process.env = before;
  await stack.stop();
});

function idOf({ executions }: Submission, id: string): string {
  return executions.get(id) ?? "";
}

async function run(...args: string[]) {
  const { code, stdout, stderr } = await sluice([...args, "--yes", "--json"], {
    environment: stack.environment,
  });
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  return parseOutput(args[0] ?? "", stdout).changes;
}

test("a failure is replayed with its descendants, and the worker runs them", async () => {
  fails = true;
  const diamond = {
    name: "diamond",
    tasks: [
      { id: "root" },
      { id: "left", dependsOn: ["root"] },
      { id: "right", dependsOn: ["root"] },
      { id: "join", dependsOn: ["left", "right"] },
    ],
  };
  const { flow } = await stack.run(diamond);
  fails = false;
  const changes = await run("replay", "--flow", flow.flowId, "--descendants");
  expect(changes.map(({ task: id, status }: Record<string, string>) => [id, status]).sort()).toEqual(
    ["join", "left", "right", "root"].map((id) => [id, "changed"]),
  );
  const { tasks } = await stack.waitForEnd(flow);
  expect([...tasks.values()].map(({ state }) => state)).toEqual(Array.from({ length: 4 }, () => "success"));
});

test("an approval is completed by its task, and one is failed", async () => {
  const approval = {
    name: "approval",
    tasks: [
      { id: "approve", lane: "people" },
      { id: "publish", dependsOn: ["approve"] },
    ],
  };
  const [accepted, declined] = [await stack.submit(approval), await stack.submit(approval)];
  await run("complete", "--flow", accepted.flowId, "--task", "approve", "--result", '{"by":"ada"}');
  await run("fail", idOf(declined, "approve"), "--reason", "too expensive");
  const yes = await stack.waitForEnd(accepted);
  expect(yes.tasks.get("approve")?.result).toEqual({ by: "ada" });
  expect(yes.tasks.get("publish")?.state).toBe("success");
  const no = await stack.waitForEnd(declined);
  expect(no.tasks.get("approve")).toMatchObject({ state: "failed", reason: "too expensive" });
  expect(no.tasks.get("publish")?.state).toBe("skipped");
});

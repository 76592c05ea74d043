import { afterAll, beforeAll, expect, test } from "vitest";
import { startTestStack, type TestStack } from "#local/test-stack.ts";
import { connect } from "#sdk/connect.ts";
import { submitFlow } from "#sdk/submission/submit.ts";
import { command } from "#shared/contract/command.ts";
import { parseFlowId, parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { ConfigurationError } from "#shared/errors.ts";

let stack: TestStack;
beforeAll(async () => {
  stack = await startTestStack();
});
afterAll(() => stack.stop());

const CHAIN = {
  name: "chain",
  tasks: [
    { id: "first", lane: "a" },
    { id: "second", lane: "b", dependsOn: [{ task: "first", passData: true }] },
  ],
};

test("runs the tasks of every lane to their end, and passes data on", async () => {
  const flow = await stack.submit(CHAIN);
  const { tasks } = await stack.run(flow, async ({ task, payload }) => ({
    outcome: "success",
    result: `${task} after "${payload}"`,
  }));
  expect([...tasks]).toEqual([
    ["first", { state: "success", result: 'first after ""', reason: "" }],
    ["second", { state: "success", result: `second after "first after """`, reason: "" }],
  ]);
});

test("a task that throws has failed with its reason, and its descendants are skipped", async () => {
  const flow = await stack.submit(CHAIN);
  const { tasks } = await stack.run(flow, async ({ task }) => {
    throw new Error(`${task} broke`);
  });
  expect([...tasks]).toEqual([
    ["first", { state: "failed", result: "", reason: "first broke" }],
    ["second", { state: "skipped", result: "", reason: "" }],
  ]);
});

test("an invalid workflow is refused with its errors", async () => {
  await expect(stack.submit({ name: "x", tasks: [{ id: "a", dependsOn: ["b"] }] })).rejects.toThrow(
    ConfigurationError,
  );
});

test("code under test finds the stack through its environment", async () => {
  using sluice = await connect(stack.environment);
  const flowId = unwrap(parseFlowId("0f8c5f6e-0000-4000-8000-00000000000a"));
  const lane = unwrap(parseLaneId("default"));
  const workflow = { name: "one", tasks: [{ id: "only", lane, priority: 0, payload: "" }], edges: [] };
  const flow = await submitFlow(sluice, workflow, { flowId });
  const { tasks } = await stack.run(flow, async () => ({ outcome: "success", result: "" }));
  expect(tasks.get("only")?.state).toBe("success");
});

test("a flow that cannot end is an error that names the states of its tasks", async () => {
  const flow = await stack.submit(CHAIN);
  const [first] = flow.executions.values();
  if (first === undefined) throw new Error("the flow has no execution");
  // As an operator would hold it: no worker can claim it, and no completion is missing.
  await stack.valkey.pipelined([
    command(
      flow.partition,
      "hset",
      stack.router.execKeys(first).core,
      "eligibility_state",
      "blocked_by_operator",
    ),
    command(
      flow.partition,
      "zrem",
      stack.router.indexKeys(flow.partition).lane(unwrap(parseLaneId("a"))).eligible,
      first,
    ),
  ]);
  await expect(stack.run(flow, async () => ({ outcome: "success", result: "" }))).rejects.toThrow(
    /makes no progress any more: first blocked, second blocked/,
  );
});

import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { startTestStack, type TestStack } from "#local/test-stack.ts";
import { connect } from "#sdk/connect.ts";
import { containerWorker } from "#sdk/kit/container-worker.ts";
import { defineTask, type TaskContext } from "#sdk/kit/define-task.ts";
import { submitFlow } from "#sdk/submission/submit.ts";
import { command } from "#shared/contract/command.ts";
import { parseFlowId, parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { ConfigurationError } from "#shared/errors.ts";

type Run = (input: unknown, context: TaskContext) => unknown;

/** What the tasks do in the current test. */
let run: Run;
const tasks = ["a", "b"].map((lane) =>
  defineTask({ kind: "task", lane, timeout: "20s", run: (input, context) => run(input, context) }),
);

let stack: TestStack;
beforeAll(async () => {
  stack = await startTestStack({ tasks, lanes: ["outside"] });
});
beforeEach(() => {
  run = () => null;
});
afterAll(() => stack.stop());

const CHAIN = {
  name: "chain",
  tasks: [
    { id: "first", lane: "a", payload: { n: 1 } },
    { id: "second", lane: "b", dependsOn: ["first"] },
  ],
};

test("runs the tasks of every lane to their end, with their inputs and results", async () => {
  run = async (input, { upstream }) => ({
    input,
    before: input === undefined ? await upstream("first") : null,
  });
  const first = { input: { n: 1 }, before: null };
  expect([...(await stack.run(CHAIN)).tasks]).toEqual([
    ["first", { state: "success", result: first, reason: "" }],
    ["second", { state: "success", result: { before: first }, reason: "" }],
  ]);
});

test("a task that throws has failed with its reason, and its descendants are skipped", async () => {
  run = () => {
    throw new Error("it broke");
  };
  expect([...(await stack.run(CHAIN)).tasks]).toEqual([
    ["first", { state: "failed", result: undefined, reason: "it broke" }],
    ["second", { state: "skipped", result: undefined, reason: "" }],
  ]);
});

test("several flows run at once", async () => {
  const started = Promise.withResolvers<void>();
  let runs = 0;
  // Every first task waits until those of all flows run.
  run = async (input) => {
    if (input === undefined) return;
    runs += 1;
    if (runs === 3) started.resolve();
    await started.promise;
  };
  const flows = await Promise.all([1, 2, 3].map(() => stack.submit(CHAIN)));
  const ends = await Promise.all(flows.map((flow) => stack.waitForEnd(flow)));
  expect(ends.map((end) => end.tasks.get("second")?.state)).toEqual(["success", "success", "success"]);
});

test("an invalid workflow is refused with its errors, and so is a task that no worker runs", async () => {
  await expect(stack.submit({ name: "x", tasks: [{ id: "a", dependsOn: ["b"] }] })).rejects.toThrow(
    ConfigurationError,
  );
  const unknown = [
    { id: "c", lane: "c" },
    { id: "k", lane: "a", kind: "other" },
  ];
  await expect(stack.submit({ name: "x", tasks: unknown })).rejects.toThrow(
    /task "c": .* kind "task" in lane "c".*\n.*task "k": .* kind "other" in lane "a"/,
  );
});

test("code under test finds the stack through its environment, and its own worker runs a lane", async () => {
  Object.assign(process.env, stack.environment);
  const stopping = new AbortController();
  const outside = defineTask({ kind: "task", lane: "outside", run: () => "outside" });
  const { environment } = stack;
  const telemetry = { count: ignore, info: ignore, warn: ignore, error: ignore };
  const working = containerWorker({ tasks: [outside], environment, telemetry }).run(stopping.signal);
  using sluice = await connect(environment);
  const flowId = unwrap(parseFlowId("0f8c5f6e-0000-4000-8000-00000000000a"));
  const lane = unwrap(parseLaneId("outside"));
  const workflow = { name: "one", tasks: [{ id: "only", lane, priority: 0, payload: "" }], edges: [] };
  const flow = await submitFlow(sluice, workflow, { flowId });
  const ended = await stack.waitForEnd(flow);
  expect(ended.tasks.get("only")).toEqual({ state: "success", result: "outside", reason: "" });
  stopping.abort();
  await working;
});

test("a flow that cannot end is an error that names the states of its tasks", async () => {
  const held = { name: "held", tasks: [{ id: "first", lane: "a", delaySeconds: 3_600 }] };
  const flow = await stack.submit({
    ...held,
    tasks: [...held.tasks, { id: "second", lane: "b", dependsOn: ["first"] }],
  });
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
      stack.router.indexKeys(flow.partition).lane(unwrap(parseLaneId("a"))).delayed,
      first,
    ),
  ]);
  await expect(stack.waitForEnd(flow)).rejects.toThrow(
    /makes no progress any more: first blocked, second blocked/,
  );
});

function ignore(): undefined {
  return undefined;
}

import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { FunctionProcess } from "#local/function-process.ts";
import type { FunctionOptions } from "#local/function-settings.ts";
import { writeBundle } from "#test/local/fake-function.ts";
import { isRunning } from "#test/local/processes.ts";
import { AWS_RUNTIMES } from "#test/support/runtimes.ts";

let fake: Awaited<ReturnType<typeof writeBundle>>;
beforeAll(async () => {
  fake = await writeBundle();
});
afterAll(async () => {
  await fake[Symbol.asyncDispose]();
});

describe.each(["own" as const, ...AWS_RUNTIMES])("on the runtime %s", (runtime) => {
  function functionProcess(options: Partial<FunctionOptions> = {}) {
    return new FunctionProcess({
      functionName: "fake",
      bundle: fake.path,
      environment: {},
      timeoutMs: 10_000,
      onOutput: () => undefined,
      runtime,
      ...options,
    });
  }

  test("the context is like Lambda's, and one process handles one event at a time", async () => {
    await using environment = functionProcess({ memoryLimitMb: 512 });
    const contexts = await Promise.all([1, 2, 3].map(() => environment.invoke("context")));
    const { pid } = environment;
    const requestIds = new Set(contexts.map((context) => Object(context).awsRequestId));
    expect(requestIds.size).toBe(3);
    for (const [index, context] of contexts.entries()) {
      expect(context).toMatchObject({
        pid,
        events: index + 1,
        functionName: "fake",
        memoryLimitInMB: "512",
      });
      const { remaining } = Object(context);
      expect(remaining).toBeGreaterThan(5_000);
      expect(remaining).toBeLessThanOrEqual(10_000);
    }
  });

  test("the environment has the given variables and none of this process", async () => {
    vi.stubEnv("SLUICE_TEST_SECRET", "ours");
    await using environment = functionProcess({ environment: { VALKEY_URL: "redis://x" } });
    expect(await environment.invoke("env VALKEY_URL")).toBe("redis://x");
    expect(await environment.invoke("env AWS_LAMBDA_FUNCTION_NAME")).toBe("fake");
    expect(await environment.invoke("env SLUICE_TEST_SECRET")).toBeNull();
    vi.unstubAllEnvs();
  });

  test("the output goes to the callback", async () => {
    let output = "";
    await using environment = functionProcess({
      onOutput: (text) => {
        output += text;
      },
    });
    await environment.invoke("log hello");
    await vi.waitFor(() => expect(output).toMatch(/(^|INFO\t)hello$/m));
    await vi.waitFor(() => expect(output).toMatch(/(^|ERROR\t)error hello$/m));
  });

  test("events and responses of any JSON type pass unchanged", async () => {
    await using environment = functionProcess();
    const large = { Records: [{ body: "echo", text: "żółw 語 🐢 \u0000 \n".repeat(20_000) }] };
    expect(await environment.invoke(large)).toEqual(large);
    expect(await environment.invoke("nothing")).toBeNull();
  });

  describe("an event without a response", () => {
    test("an exception fails the event and keeps the process", async () => {
      await using environment = functionProcess();
      await expect(environment.invoke("throw")).rejects.toMatchObject({
        name: "FunctionError",
        reason: "threw",
        message: "RangeError: thrown on purpose",
      });
      expect(await environment.invoke("context")).toMatchObject({ events: 2 });
    });

    test.each([
      ["exit 3", "the process died with the status 3"],
      ["reject", "the process died with the status 1"],
    ])("%s: the event fails, and the next one gets a new process", async (event, message) => {
      await using environment = functionProcess();
      await expect(environment.invoke(event)).rejects.toMatchObject({ reason: "died", message });
      expect(await environment.invoke("context")).toMatchObject({ events: 1 });
    });

    test.each(["wait", "spin"])("%s: the timeout kills the process", async (event) => {
      await using environment = functionProcess({ timeoutMs: 500 });
      await environment.invoke("context");
      const pid = environment.pid ?? 0;
      await expect(environment.invoke(event)).rejects.toMatchObject({
        reason: "timed_out",
        message: "fake did not respond within 500 ms",
      });
      expect(isRunning(pid)).toBe(false);
      expect(await environment.invoke("context")).toMatchObject({ events: 1 });
    });

    test("a signal to the process fails the event in flight", async () => {
      await using environment = functionProcess();
      await environment.invoke("context");
      const failure = expect(environment.invoke("wait")).rejects.toMatchObject({
        reason: "died",
        message: "the process died with SIGKILL",
      });
      await environment.kill("SIGKILL");
      await failure;
      expect(await environment.invoke("context")).toMatchObject({ events: 1 });
    });

    test.each([
      ["that throws", "throw new Error('no good')", "Error: no good"],
      ["without a handler", "export const other = 1;", "handler"],
    ])("a bundle %s is unusable", async (_, source, reason) => {
      await using bundle = await writeBundle(source);
      await using environment = functionProcess({ bundle: bundle.path });
      await expect(environment.invoke("context")).rejects.toMatchObject({
        reason: "unusable",
        message: expect.stringContaining(reason),
      });
    });
  });

  test("stop ends the process during an event, and no new process starts", async () => {
    const environment = functionProcess();
    await environment.invoke("context");
    const pid = environment.pid ?? 0;
    const failure = expect(environment.invoke("wait")).rejects.toMatchObject({ reason: "died" });
    await environment.stop();
    await failure;
    expect(isRunning(pid)).toBe(false);
    await expect(environment.invoke("context")).rejects.toMatchObject({ reason: "died" });
  });

  test("stop ends a process that is still starting", async () => {
    const environment = functionProcess();
    const failure = expect(environment.invoke("context")).rejects.toMatchObject({ reason: "died" });
    await environment.stop();
    await failure;
    expect(environment.pid).toBeUndefined();
  });

  test("the process ends with its parent, even when the parent is killed", async () => {
    const parent = spawn(
      process.execPath,
      [fileURLToPath(new URL("function-parent.ts", import.meta.url)), fake.path, runtime],
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    const [line]: unknown[] = await once(parent.stdout, "data");
    const pid = Number(line);
    expect(isRunning(pid)).toBe(true);
    parent.kill("SIGKILL");
    await vi.waitFor(() => expect(isRunning(pid)).toBe(false), { timeout: 10_000 });
  });
});

test("on the built-in runtime, a promise that never settles runs into the timeout", async () => {
  await using environment = new FunctionProcess({
    functionName: "fake",
    bundle: fake.path,
    environment: {},
    timeoutMs: 500,
    onOutput: () => undefined,
  });
  await expect(environment.invoke("hang")).rejects.toMatchObject({ reason: "timed_out" });
});

test.each(AWS_RUNTIMES)(
  "on the runtime %s, a promise that never settles ends the process, as in Lambda",
  async (runtime) => {
    await using environment = new FunctionProcess({
      functionName: "fake",
      bundle: fake.path,
      environment: {},
      timeoutMs: 10_000,
      onOutput: () => undefined,
      runtime,
    });
    await expect(environment.invoke("hang")).rejects.toMatchObject({
      reason: "died",
      message: "the process died with the status 0",
    });
  },
);

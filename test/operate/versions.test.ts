/** The command against functions of other versions, which stubs stand for. */

import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { z } from "zod";
import { openRemoteRunner } from "#cli/kit/remote-runner.ts";
import { FunctionError } from "#local/function-error.ts";
import { changeReport, writeInput } from "#operate/change-report.ts";
import { writeOperation } from "#operate/operation.ts";
import { audit } from "#operate/read/audit.ts";
import { ConfigurationError, InvalidRequestError } from "#shared/errors.ts";
import { VERSION } from "#shared/runtime/version.ts";
import { FakeLambda } from "#test/support/fake-lambda.ts";

const change = writeOperation({
  name: "change",
  input: z.strictObject({ ...writeInput, limit: z.number().default(1) }),
  output: changeReport,
  target: () => "everything",
  run: () => Promise.reject(new Error("runs only in a function")),
});

describe("the command and a function that is not its own", () => {
  let lambda: FakeLambda;
  /** What the function returns or throws. */
  let answer: () => Promise<unknown>;
  beforeAll(async () => {
    lambda = await FakeLambda.start();
    for (const name of ["operate-read", "operate-write"])
      lambda.deploy(`sluice-test-${name}`, { invoke: () => answer() });
    for (const [name, value] of Object.entries(lambda.environment)) vi.stubEnv(name, value);
  });
  afterAll(async () => {
    vi.unstubAllEnvs();
    await lambda[Symbol.asyncDispose]();
  });
  beforeEach(() => {
    lambda.events.length = 0;
  });

  const runner = (stage = "test") =>
    openRemoteRunner({
      stage,
      region: undefined,
      actor: "ann@laptop",
      signal: new AbortController().signal,
      note: () => undefined,
    });
  const read = () => runner().run(audit, { limit: 10 });
  const write = () => runner().run(change, { dry_run: false, reason: "", limit: 100 });

  it("refuses an answer of another version, whatever its form, and names both versions", async () => {
    for (const old of [
      { version: "0.0.9", ok: true, output: {} },
      { version: "0.0.9", text: "?" },
    ]) {
      answer = () => Promise.resolve(old);
      await expect(read()).rejects.toThrow(ConfigurationError);
      await expect(read()).rejects.toThrow(
        `sluice-test-operate-read has version 0.0.9, and this command has version ${VERSION}: deploy`,
      );
    }
  });

  it("reports the refusal of a function that compares the versions itself as wrong use", async () => {
    answer = () =>
      Promise.resolve({ version: VERSION, ok: false, code: "other_version", errors: ["deploy the stage"] });
    await expect(read()).rejects.toThrow(ConfigurationError);
  });

  it("refuses answers that are none, and outputs without the form of the operation", async () => {
    for (const wrong of [
      null,
      "text",
      { version: VERSION },
      { version: VERSION, ok: true, output: { entries: 1 } },
    ]) {
      answer = () => Promise.resolve(wrong);
      await expect(read()).rejects.toThrow(/^sluice-test-operate-read returned (no|a malformed) answer/);
    }
  });

  it("never asks for a change twice: neither for a shorter report nor after an unknown end", async () => {
    answer = () =>
      Promise.resolve({ version: VERSION, ok: false, code: "answer_too_large", errors: ["too many bytes"] });
    await expect(write()).rejects.toThrow("too many bytes");
    answer = () => Promise.reject(new FunctionError("timed_out", "Task timed out"));
    await expect(write()).rejects.toThrow(
      /Sandbox\.Timedout.*changes may have been made, `sluice audit` shows/,
    );
    lambda.refuse = () => ({ status: 500, code: "ServiceException", message: "lost" });
    await expect(write()).rejects.toThrow(/changes may have been made/);
    lambda.refuse = () => undefined;
    expect(lambda.events).toHaveLength(2);
  });

  it("gives up on a page that cannot be shorter", async () => {
    answer = () =>
      Promise.resolve({ version: VERSION, ok: false, code: "answer_too_large", errors: ["too many bytes"] });
    await expect(read()).rejects.toThrow("too many bytes");
    const limits = lambda.events.map((event) => (event as { input: { limit: number } }).input.limit);
    expect(limits).toEqual([10, 5, 2, 1]);
  });

  it("sends no event that Lambda would refuse, and refuses a stage that none can have", async () => {
    const reason = "x".repeat(6_000_000);
    await expect(runner().run(change, { dry_run: true, reason, limit: 1 })).rejects.toThrow(
      InvalidRequestError,
    );
    expect(lambda.events).toEqual([]);
    expect(() => runner("Prod!")).toThrow(
      '--stage is "Prod!": expected the name of a deployed stage, such as prod',
    );
  });
});

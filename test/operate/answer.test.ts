/** What a function answers to events that the command does not send, and to operations with large answers. */

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { z } from "zod";
import { changeReport, writeInput } from "#operate/change-report.ts";
import { type Operation, readOperation, writeOperation } from "#operate/operation.ts";
import { answerRequest } from "#operate/remote/answer.ts";
import { MAX_PAYLOAD_BYTES } from "#operate/remote/protocol.ts";
import { AUDIT_KEY } from "#shared/contract/keys.ts";
import { ValkeyError } from "#shared/errors.ts";
import { VERSION } from "#shared/runtime/version.ts";
import { type OperationRunner, operationRunner } from "#test/operate/support.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

const text = (bytes: number) =>
  readOperation({
    name: "text",
    input: z.strictObject({}),
    output: z.string(),
    // "€" has three bytes.
    run: () => Promise.resolve("€".repeat(bytes / 3)),
  });

const change = writeOperation({
  name: "change",
  input: z.strictObject({ ...writeInput, text: z.string().default("") }),
  output: changeReport,
  target: () => "everything",
  run: (_, { dry_run, text: shown }) => {
    const changes = (["changed", "changed", "failed", "unchanged"] as const).map((status) => ({
      target: "one",
      status,
      text: shown,
    }));
    return Promise.resolve({ dry_run, changes });
  },
});

const failing = readOperation({
  name: "failing",
  input: z.strictObject({}),
  output: z.string(),
  run: () => Promise.reject(new ValkeyError("LOADING")),
});

describe.each(DEPLOYMENTS)("a function on $name", (deployment) => {
  let runner: OperationRunner;
  beforeAll(async () => {
    runner = await operationRunner(deployment);
  });
  afterAll(() => runner[Symbol.dispose]());

  const answer = async (operations: readonly Operation<unknown, unknown>[], event: unknown) => {
    const lines: string[] = [];
    const counts = new Map<string, number>();
    const log = (message: string, fields: object) => void lines.push(`${message} ${JSON.stringify(fields)}`);
    const answered = await answerRequest(
      {
        functionName: "sluice-test-operate",
        operations,
        services: () => Promise.resolve(runner.services),
        telemetry: {
          info: log,
          warn: log,
          error: log,
          count: (metric, value = 1) => void counts.set(metric, (counts.get(metric) ?? 0) + value),
        },
        requestId: "r-1",
        deadlineMs: Date.now() + 60_000,
      },
      event,
    );
    return { answered, lines, counts: Object.fromEntries(counts) };
  };
  const request = (operation: string, input: object = {}) => ({
    version: VERSION,
    operation,
    input,
    actor: "ann@laptop",
  });

  it.each([
    ["null", null],
    ["a text", "flows"],
    ["no version", { operation: "text", input: {}, actor: "ann@laptop" }],
    ["no actor", { version: VERSION, operation: "text", input: {}, actor: "" }],
    ["an actor that would fill the log", { ...request("text"), actor: "x".repeat(257) }],
  ])("refuses %s as an event", async (_, event) => {
    const { answered, counts } = await answer([text(3)], event);
    expect(answered).toMatchObject({ ok: false, code: "invalid_request" });
    expect(counts).toEqual({});
  });

  it("runs nothing for a command of another version, and names both", async () => {
    const { answered, counts } = await answer([change], { ...request("change"), version: "9.9.9" });
    expect(answered).toMatchObject({ version: VERSION, ok: false, code: "other_version" });
    expect(JSON.stringify(answered)).toMatch(
      new RegExp(`has version ${VERSION}, and this command has version 9.9.9`),
    );
    expect(counts).toEqual({});
  });

  it("returns an answer just below Lambda's limit, and refuses a longer one before Lambda does", async () => {
    const { answered } = await answer([text(MAX_PAYLOAD_BYTES - 300)], request("text"));
    expect(answered).toMatchObject({ ok: true });
    const { answered: longer } = await answer([text(MAX_PAYLOAD_BYTES)], request("text"));
    expect(longer).toMatchObject({ ok: false, code: "answer_too_large" });
    expect(JSON.stringify(longer)).toContain("a smaller --limit, or a narrower filter");
  });

  it("says that the changes were made if their report is too long", async () => {
    const { answered } = await answer([change], request("change", { text: "x".repeat(2_000_000) }));
    expect(answered).toMatchObject({ ok: false, code: "answer_too_large" });
    expect(JSON.stringify(answered)).toContain("The changes were made: `sluice audit` shows the command.");
  });

  it("counts what was changed, logs neither input nor answer, and records the request", async () => {
    const { counts, lines } = await answer([change], request("change", { text: "secret", reason: "secret" }));
    expect(counts).toEqual({ OperationsRun: 1, ChangesMade: 2, ChangesFailed: 1 });
    expect(lines).toHaveLength(2);
    expect(lines.join()).not.toContain("secret");
    const trail = JSON.stringify(
      await runner.services.valkey.call("xrevrange", AUDIT_KEY, "+", "-", "COUNT", 1_000),
    );
    expect(trail).toContain("ann@laptop, request r-1");
  });

  it("throws what an operation throws, so that Lambda counts an error", async () => {
    await expect(answer([failing], request("failing"))).rejects.toThrow(ValkeyError);
  });
});

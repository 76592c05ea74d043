/** The command `sluice --stage` with the built functions, through a fake of the Lambda service. */

import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { recordAudit } from "#operate/audit.ts";
import { AUDIT_KEY } from "#shared/contract/keys.ts";
import { VERSION } from "#shared/runtime/version.ts";
import { KINDS } from "#test/auth/secured.ts";
import { parseOutput } from "#test/cli/support.ts";
import { STAGE, StageBed } from "#test/operate/stage-bed.ts";
import { startProgram } from "#test/support/program.ts";

const MAIN = fileURLToPath(new URL("../../cli/main.ts", import.meta.url));

describe.each(KINDS)("sluice --stage on %s", (kind) => {
  let bed: StageBed;
  beforeAll(async () => {
    bed = await StageBed.start(kind);
  }, 60_000);
  afterAll(() => bed[Symbol.asyncDispose]());
  afterEach(async () => {
    bed.lambda.refuse = () => undefined;
    bed.lambda.events.length = 0;
    bed.lambda.requestIds.length = 0;
    bed.logs.clear();
    await bed.admin.call("del", AUDIT_KEY);
  });

  const record = (reason: string, target = "flow f", actor = "ann@laptop"): Promise<void> =>
    recordAudit(bed.admin, { operation: "cancel", actor, target, reason });

  it("prints what the function answers, and logs who asked for what but neither input nor answer", async () => {
    await record("the secret reason");
    const { code, stdout, stderr } = await startProgram(
      MAIN,
      ["audit", "--json", "--limit", "7", "--stage", STAGE],
      bed.lambda.environment,
    ).ended;
    expect(stderr).toBe("");
    expect(code).toBe(0);
    const { entries } = parseOutput("audit", stdout);
    expect(entries).toMatchObject([{ operation: "cancel", reason: "the secret reason" }]);
    expect(bed.lambda.events).toEqual([
      { version: VERSION, operation: "audit", input: { limit: 7 }, actor: expect.stringMatching(/^.+@.+$/) },
    ]);
    const [event] = bed.lambda.events;
    const { actor } = event as { readonly actor: string };
    const [requestId] = bed.lambda.requestIds;
    expect(bed.logs.lines).toMatchObject([
      { message: "operation started", operation: "audit", actor, function_request_id: requestId },
      { message: "operation answered", operation: "audit", actor, bytes: expect.any(Number) },
    ]);
    expect(JSON.stringify(bed.logs.lines)).not.toContain("secret");
    expect(bed.logs.metrics).toMatchObject([{ service: "operate-read", OperationsRun: 1 }]);
  });

  it("checks Valkey in the function, and the queues from here, for doctor", async () => {
    for (const [name, value] of Object.entries(bed.queue.queue.environment)) vi.stubEnv(name, value);
    const { code, stdout } = await bed.sluice("doctor", "--json");
    expect(code).toBe(1);
    const { deployment, checks, findings } = parseOutput("doctor", stdout);
    expect(bed.lambda.events).toMatchObject([{ operation: "doctor", input: { full: false } }]);
    expect(deployment).toMatchObject({
      completions_queue: bed.queue.queue.queueUrl,
      dead_letter_queue: bed.queue.queue.deadLetterQueueUrl,
    });
    const statusOf = (name: string) => checks.find((check: { name: string }) => check.name === name)?.status;
    for (const name of ["valkey", "library", "clock", "queues"])
      expect([name, statusOf(name)]).toEqual([name, "ok"]);
    const codes = findings.map((finding: { code: string }) => finding.code);
    expect(codes).toContain("partitions_unrecorded");
    expect(codes).not.toContain("permission_missing");
  });

  it("passes on what is wrong with the input, with exit code 2", async () => {
    const { code, stderr } = await bed.sluice("audit", "--cursor", "yesterday");
    expect(stderr).toBe("sluice: cursor: is not a cursor of this command: use `next` of its last answer\n");
    expect(code).toBe(2);
    expect(bed.logs.lines.at(-1)).toMatchObject({ message: "operation refused", code: "invalid_request" });
  });

  it("asks for shorter pages where an answer would exceed Lambda's limit, and loses no entry", async () => {
    // 12 KB each in UTF-8, more than 6 MB together.
    for (let entry = 0; entry < 600; entry += 1)
      await record(String(entry), "€".repeat(2_000), "€".repeat(2_000));
    const found: string[] = [];
    let cursor: string | undefined;
    do {
      const { code, stdout, stderr } = await bed.sluice(
        ...["audit", "--json", "--limit", "1000"],
        ...(cursor === undefined ? [] : ["--cursor", cursor]),
      );
      expect(stderr).toBe("");
      expect(code).toBe(0);
      const page = parseOutput("audit", stdout);
      found.push(...page.entries.map(({ reason }: { reason: string }) => reason));
      cursor = page.next;
    } while (cursor !== undefined);
    expect(found).toEqual(Array.from({ length: 600 }, (_, index) => String(599 - index)));
    const limits = bed.lambda.events.map((event) => (event as { input: { limit: number } }).input.limit);
    expect(limits.slice(0, 3)).toEqual([1_000, 500, 250]);
  });

  it.each([
    ["busy", 429, "TooManyRequestsException", "the function is busy"],
    ["restoring its network", 409, "ResourceConflictException", "was not used for weeks"],
    ["restoring its network", 502, "ResourceNotReadyException", "was not used for weeks"],
  ])("waits while the function is %s (%i %s), and says so once", async (_, status, code, note) => {
    let refusals = 2;
    bed.lambda.refuse = () => {
      refusals -= 1;
      return refusals < 0 ? undefined : { status, code, message: "not now" };
    };
    const { code: exitCode, stderr } = await bed.sluice("audit");
    expect(stderr.match(new RegExp(note, "g"))).toHaveLength(1);
    expect(exitCode).toBe(0);
    expect(bed.lambda.requestIds).toHaveLength(3);
  });

  it.each([
    [404, "ResourceNotFoundException", 2, /no function sluice-test-operate-read in eu-central-1/],
    [403, "AccessDeniedException", 2, /allow lambda:InvokeFunction on it/],
    [403, "ExpiredTokenException", 2, /no valid AWS credentials \(refused\): sign in/],
    [500, "ServiceException", 1, /was not reached or did not answer \(ServiceException: refused\)$/m],
  ])("says what to do about %i %s, and asks once", async (status, code, exitCode, text) => {
    bed.lambda.refuse = () => ({ status, code, message: "refused" });
    const ended = await bed.sluice("audit");
    expect(ended.stderr).toMatch(text);
    expect(ended.code).toBe(exitCode);
    expect(bed.lambda.requestIds).toHaveLength(1);
  });

  it("names the request if the function fails, with exit code 1", async () => {
    bed.deploy("operate-read", { VALKEY_URL: "redis://127.0.0.1:1", VALKEY_CA: "" });
    try {
      const { code, stderr } = await bed.sluice("audit");
      expect(stderr).toMatch(/^sluice: OperateError: sluice-test-operate-read failed with \w+Error: /);
      expect(stderr).toContain(`under the request ${bed.lambda.requestIds[0]}`);
      expect(code).toBe(1);
    } finally {
      bed.deploy("operate-read");
    }
  });
});

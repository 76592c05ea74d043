/** Every operation in its built function, as its Valkey user; and every operation as the user that may only read. */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { openRemoteRunner } from "#cli/kit/remote-runner.ts";
import type { Runner } from "#cli/kit/runner.ts";
import { audit } from "#operate/read/audit.ts";
import { READ_OPERATIONS } from "#operate/read-operations.ts";
import { remoteAnswer } from "#operate/remote/protocol.ts";
import { runOperation } from "#operate/run-operation.ts";
import { type OperateServices, openServices, readOperateConfig } from "#operate/services.ts";
import { submit } from "#operate/write/submit.ts";
import { WRITE_OPERATIONS } from "#operate/write-operations.ts";
import { AUDIT_KEY } from "#shared/contract/keys.ts";
import { VERSION } from "#shared/runtime/version.ts";
import { KINDS } from "#test/auth/secured.ts";
import { inputOf, type Scene, setScene } from "#test/operate/scene.ts";
import { STAGE, StageBed } from "#test/operate/stage-bed.ts";
import { snapshot } from "#test/support/valkey.ts";

const SERVERLESS = readFileSync(new URL("../../serverless.yml", import.meta.url), "utf8");

/** The variables of a function in serverless.yml, and of all functions. */
function variablesOf(name: string): ReadonlySet<string> {
  const [, block = ""] = new RegExp(`\n    ${name}:\n((?: {6}.*\n)+)`).exec(SERVERLESS) ?? [];
  const variables = [...block.matchAll(/^ {8}([A-Z][A-Z_]+): /gm)].map(([, variable = ""]) => variable);
  return new Set([...variables, "POWERTOOLS_LOG_LEVEL", "LOG_LEVEL"]);
}

const CALL = { actor: "ann@laptop", deadlineMs: Number.POSITIVE_INFINITY };

describe.each(KINDS)("all operations on %s", (kind) => {
  let bed: StageBed;
  let scene: Scene;
  let runner: Runner;
  /** Connected as the user of operate-read. */
  let reader: OperateServices;
  /** The variables that operations have read. */
  const read = new Set<string>();
  beforeAll(async () => {
    bed = await StageBed.start(kind);
    scene = await setScene(bed);
    for (const [name, value] of Object.entries({
      ...bed.queue.queue.environment,
      ...bed.lambda.environment,
    })) {
      vi.stubEnv(name, value);
    }
    vi.stubEnv("AWS_ENDPOINT_URL_SQS", bed.queue.queue.endpoint);
    const { signal } = new AbortController();
    runner = openRemoteRunner({
      stage: STAGE,
      region: undefined,
      actor: CALL.actor,
      signal,
      note: () => undefined,
    });
    const environment = new Proxy(bed.environment("operate-read"), {
      get: (variables, name) => {
        read.add(String(name));
        return Reflect.get(variables, name);
      },
    });
    reader = await openServices(readOperateConfig(environment), (error) => {
      throw error;
    });
  }, 60_000);
  afterAll(async () => {
    reader?.close();
    runner?.[Symbol.dispose]();
    vi.unstubAllEnvs();
    await bed[Symbol.asyncDispose]();
  });

  it.each(READ_OPERATIONS.map((operation) => [operation.name, operation] as const))(
    "%s runs in operate-read, and writes nothing",
    async (_, operation) => {
      const before = await snapshot(bed.admin, scene.partition);
      await bed.server.onEveryNode("acl", "LOG", "RESET");
      await runner.run(operation as never, inputOf(operation, scene) as never);
      expect(await snapshot(bed.admin, scene.partition)).toEqual(before);
      expect(await bed.server.refusals()).toEqual([]);
    },
  );

  const writes = WRITE_OPERATIONS.map((operation) => [operation.name, operation] as const);

  it.each(writes)("%s previews in operate-write, and writes nothing", async (_, operation) => {
    const before = await snapshot(bed.admin, scene.partition);
    const input = { ...inputOf(operation, scene), dry_run: true, reason: "" };
    expect(await runner.run(operation as never, input as never)).toMatchObject({ dry_run: true });
    expect(await snapshot(bed.admin, scene.partition)).toEqual(before);
    expect(await bed.admin.call("exists", AUDIT_KEY)).toBe(0);
  });

  it.each(writes)("%s is not part of operate-read", async (name, operation) => {
    const before = await snapshot(bed.admin, scene.partition);
    const event = {
      version: VERSION,
      operation: name,
      input: inputOf(operation, scene),
      actor: "ann@laptop",
    };
    const answer = remoteAnswer.parse(await bed.invoke("operate-read", event));
    expect(answer).toMatchObject({ ok: false, errors: [`operate-read has no operation "${name}"`] });
    expect(await snapshot(bed.admin, scene.partition)).toEqual(before);
  });

  it.each(writes)("%s changes nothing as the user of operate-read", async (_, operation) => {
    const before = await snapshot(bed.admin, scene.partition);
    const input = { ...inputOf(operation, scene), dry_run: false, reason: "a test" };
    await expect(runOperation(operation as never, reader, input, CALL)).rejects.toThrow(/NOPERM/);
    // Without the audit trail, which is refused first.
    const parsed = operation.input.parse(input);
    await Promise.allSettled([operation.run({ ...reader, ...CALL }, parsed as never)]);
    expect(await snapshot(bed.admin, scene.partition)).toEqual(before);
  });

  it.each([
    ["operateRead", READ_OPERATIONS],
    ["operateWrite", WRITE_OPERATIONS],
  ] as const)("%s has the variables that its operations read", async (name, operations) => {
    read.clear();
    for (const operation of operations) {
      const input = {
        ...inputOf(operation, scene),
        ...(operation.access === "write" ? { dry_run: true } : {}),
      };
      await runOperation(operation as never, reader, input, CALL);
    }
    // Lambda sets those of AWS.
    const own = [...read].filter((variable) => !variable.startsWith("AWS_"));
    expect(own.filter((variable) => !variablesOf(name).has(variable))).toEqual([]);
  });

  it("a change is recorded with the name that the command sends and the request that proves it", async () => {
    const input = { ...inputOf(submit as never, scene), dry_run: false, reason: "a test" };
    await runner.run(submit, input as never);
    const { entries } = await runner.run(audit, { limit: 1 });
    const requestId = bed.lambda.requestIds.at(-2);
    expect(entries).toMatchObject([
      { operation: "submit", actor: `ann@laptop, request ${requestId}`, reason: "a test" },
    ]);
  });
});

describe("the bundle of operate-read", () => {
  const sourcesOf = (name: string): string[] => {
    const path = fileURLToPath(new URL(`../../dist/${name}/index.mjs.map`, import.meta.url));
    const { sources }: { readonly sources: string[] } = JSON.parse(readFileSync(path, "utf8"));
    return sources.filter((source) => /^\.\.\/\.\.\/operate\//.test(source));
  };

  it("contains no module of the write operations, and that of operate-write does", () => {
    expect(sourcesOf("operate-read").filter((source) => source.includes("/write"))).toEqual([]);
    expect(sourcesOf("operate-write")).toContain("../../operate/write-operations.ts");
  });
});

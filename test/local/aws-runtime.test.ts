/** Every built function on AWS's runtime client, with a real Valkey and a queue emulator. */

import { once } from "node:events";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import type { SQSRecord } from "aws-lambda";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { recordOf } from "#local/event.ts";
import type { FunctionError } from "#local/function-error.ts";
import { FunctionProcess } from "#local/function-process.ts";
import { type LocalQueue, startQueue } from "#local/queue.ts";
import { startValkey, startValkeyCluster, type ValkeyServer } from "#local/valkey-server.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { family, stateOf } from "#test/support/dispatch.ts";
import { FlowFixture } from "#test/support/flow-fixture.ts";
import { AWS_RUNTIMES } from "#test/support/runtimes.ts";
import { connectTo } from "#test/support/valkey.ts";

const ROUTER = new PartitionRouter();
const SERVERS = [
  { name: "standalone", cluster: false, startServer: (): Promise<ValkeyServer> => startValkey() },
  { name: "cluster", cluster: true, startServer: (): Promise<ValkeyServer> => startValkeyCluster() },
];
const CASES = SERVERS.flatMap((server) => AWS_RUNTIMES.map((runtime) => ({ ...server, runtime })));

/** Stands in for CloudFormation's pre-signed URL: receives the response of a custom resource. */
async function startResponseUrl(): Promise<{ server: Server; url: string; responses: unknown[] }> {
  const responses: unknown[] = [];
  const server = createServer(async (request, response) => {
    responses.push(JSON.parse(await text(request)));
    response.end();
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return { server, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/answer`, responses };
}

describe.each(CASES)("$name, on $runtime", ({ cluster, startServer, runtime }) => {
  let server: ValkeyServer;
  let valkey: Valkey;
  let queue: LocalQueue;
  let output = "";
  beforeAll(async () => {
    server = await startServer();
    valkey = connectTo({ url: server.url, cluster });
    queue = await startQueue({ visibilityTimeoutSeconds: 60 });
    // provision runs first: it loads the library and records the partitions.
    await using provision = start("provision");
    const { server: listener, url, responses } = await startResponseUrl();
    await provision.invoke({
      RequestType: "Create",
      ResponseURL: url,
      StackId: "stack",
      RequestId: "request",
      LogicalResourceId: "Provision",
      ResourceProperties: {},
    });
    listener.close();
    expect(responses).toMatchObject([
      { Status: "SUCCESS", StackId: "stack", LogicalResourceId: "Provision" },
    ]);
  });
  afterAll(async () => {
    await queue.stop();
    valkey.close();
    await server.stop();
  });
  beforeEach(() => {
    output = "";
  });

  function start(name: string, environment: Record<string, string> = {}): FunctionProcess {
    return new FunctionProcess({
      functionName: `sluice-${name}`,
      bundle: fileURLToPath(new URL(`../../dist/${name}/index.mjs`, import.meta.url)),
      environment: {
        ...queue.environment,
        VALKEY_URL: server.url.href,
        VALKEY_CLUSTER_MODE: String(cluster),
        COMPLETIONS_QUEUE_URL: queue.queueUrl,
        DEAD_LETTER_QUEUE_URL: queue.deadLetterQueueUrl,
        ...environment,
      },
      timeoutMs: 20_000,
      runtime,
      onOutput: (written) => {
        output += written;
      },
    });
  }

  const record = (body: string): SQSRecord =>
    recordOf({ MessageId: body, Body: body }, { queueArn: "arn", region: "us-east-1" });

  it("dispatch handles several events in a row, and its logs and metrics are not rewritten", async () => {
    await using dispatch = start("dispatch");
    const pids = new Set<number | undefined>();
    for (const outcome of ["success", "failed"] as const) {
      const fixture = new FlowFixture(valkey, undefined, ROUTER);
      const { parent, children } = await family(fixture, 3);
      await fixture.finish(parent, outcome);
      const body = JSON.stringify({ execution_id: parent.id, flow_id: fixture.flow.id });
      expect(await dispatch.invoke({ Records: [record(body)] })).toEqual({ batchItemFailures: [] });
      const states = await Promise.all(children.map((child) => stateOf(fixture, child)));
      expect(states).toEqual(Array(3).fill(outcome === "success" ? "waiting" : "skipped"));
      pids.add(dispatch.pid);
    }
    expect((await queue.counts(queue.queueUrl)).visible).toBe(3);
    expect(pids.size).toBe(1);

    const missing = JSON.stringify({
      execution_id: "{fp:24}:550e8400-e29b-41d4-a716-446655440001",
      flow_id: "550e8400-e29b-41d4-a716-446655440000",
    });
    expect(await dispatch.invoke({ Records: [record(missing)] })).toEqual({
      batchItemFailures: [{ itemIdentifier: missing }],
    });
    await dispatch.stop();
    // The runtime client reformats console output: the functions must not use the console.
    const lines = output
      .trimEnd()
      .split("\n")
      .map((line): unknown => JSON.parse(line));
    expect(lines).toContainEqual(
      expect.objectContaining({
        level: "ERROR",
        message: "message failed, will retry",
        function_name: "sluice-dispatch",
        function_request_id: expect.stringMatching(/^[0-9a-f-]{36}$/),
        message_id: missing,
      }),
    );
    expect(lines).toContainEqual(
      expect.objectContaining({ _aws: expect.anything(), service: "dispatch", CompletionsDispatched: 1 }),
    );
  });

  it("reconcile returns its report", async () => {
    await using reconcile = start("reconcile");
    for (const _ of [1, 2]) expect(await reconcile.invoke({})).toMatchObject({ state: "complete" });
  });

  it("an error of redrive reaches its caller and the log, with source lines in its stack", async () => {
    await using redrive = start("redrive");
    const failure = await redrive.invoke({}).catch((error: FunctionError) => error);
    expect(failure).toMatchObject({
      reason: "threw",
      message: expect.stringContaining("InvalidRequestError"),
    });
    expect(String(Object(failure).stack)).toMatch(/shared\/redrive\/request\.ts:\d+/);
    expect(await redrive.invoke({ all: true, dry_run: true })).toMatchObject({ done: true, seen: 0 });
    await redrive.stop();
    const [logged = ""] = output.split("\n").filter((line) => line.includes("Invoke Error"));
    const [time = "", requestId = "", level, , error = ""] = logged.split("\t");
    expect(Date.parse(time)).not.toBeNaN();
    expect(requestId).toMatch(/^[0-9a-f-]{36}$/);
    expect(level).toBe("ERROR");
    expect(JSON.parse(error)).toMatchObject({
      errorType: "InvalidRequestError",
      code: "invalid_request",
      stack: expect.arrayContaining([expect.stringMatching(/shared\/redrive\/request\.ts:\d+/)]),
    });
  });

  it("with the log format JSON, an error is logged as an object with the name of its class", async () => {
    await using redrive = start("redrive", { AWS_LAMBDA_LOG_FORMAT: "JSON" });
    await expect(redrive.invoke({})).rejects.toMatchObject({ reason: "threw" });
    await redrive.stop();
    const lines = output.trimEnd().split("\n");
    expect(lines.map((line): unknown => JSON.parse(line))).toContainEqual(
      expect.objectContaining({
        level: "ERROR",
        // The runtime client logs the name of the class, which a build without `keepNames` minifies.
        message: expect.objectContaining({
          errorType: "InvalidRequestError",
          code: "invalid_request",
          stackTrace: expect.arrayContaining([expect.stringMatching(/^InvalidRequestError: /)]),
        }),
      }),
    );
  });

  it.each(["dispatch", "reconcile"])(
    "%s does not load with an invalid environment, and lists the errors",
    async (name) => {
      await using misconfigured = start(name, { VALKEY_URL: "", FLOW_PARTITIONS: "many" });
      const failure = misconfigured.invoke({ Records: [] });
      await expect(failure).rejects.toMatchObject({ reason: "unusable" });
      await expect(failure).rejects.toThrow(
        /ConfigurationError.*VALKEY_URL is not set.*FLOW_PARTITIONS is "many"/s,
      );
    },
  );
});

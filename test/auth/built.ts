/** Runs the built functions on AWS's runtime interface client. */

import { randomUUID } from "node:crypto";
import { fileURLToPath } from "node:url";
import type { SQSRecord } from "aws-lambda";
import { expect } from "vitest";
import { FunctionProcess } from "#local/function-process.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { family, type QueueProbe, stateOf } from "#test/support/dispatch.ts";
import { FlowFixture } from "#test/support/flow-fixture.ts";

export function builtFunction(
  name: string,
  { queue }: QueueProbe,
  environment: Readonly<Record<string, string>>,
  onOutput: (text: string) => void = () => undefined,
): FunctionProcess {
  return new FunctionProcess({
    functionName: name,
    bundle: fileURLToPath(new URL(`../../dist/${name}/index.mjs`, import.meta.url)),
    runtime: "aws",
    environment: { ...queue.environment, COMPLETIONS_QUEUE_URL: queue.queueUrl, ...environment },
    timeoutMs: 25_000,
    onOutput,
  });
}

/** Dispatches a successful execution, and expects that its two children become eligible. */
export async function dispatchOne(fn: FunctionProcess, admin: Valkey): Promise<void> {
  const fixture = new FlowFixture(admin);
  const { parent, children } = await family(fixture, 2);
  await fixture.finish(parent, "success");
  const record = recordOf({ execution_id: parent.id, flow_id: fixture.flow.id });
  expect(await fn.invoke({ Records: [record] })).toEqual({ batchItemFailures: [] });
  const states = children.map((child) => stateOf(fixture, child));
  expect(await Promise.all(states)).toEqual(["waiting", "waiting"]);
}

/** Returns a message as SQS passes it to Lambda. */
export function recordOf(body: unknown): SQSRecord {
  return {
    messageId: randomUUID(),
    receiptHandle: "handle",
    body: JSON.stringify(body),
    attributes: {
      ApproximateReceiveCount: "1",
      SentTimestamp: "0",
      SenderId: "tests",
      ApproximateFirstReceiveTimestamp: "0",
    },
    messageAttributes: {},
    md5OfBody: "",
    eventSource: "aws:sqs",
    eventSourceARN: "arn:aws:sqs:us-east-1:000000000000:completions",
    awsRegion: "us-east-1",
  };
}

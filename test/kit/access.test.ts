/** Whether the permissions of a worker in shared/valkey/access.json suffice for a Lambda worker with inline dispatch. */

import { randomUUID } from "node:crypto";
import type { Context, SQSRecord } from "aws-lambda";
import { afterAll, beforeAll, expect, it } from "vitest";
import { Poller } from "#local/poller.ts";
import { type LocalQueue, startQueue } from "#local/queue.ts";
import { defineTask } from "#sdk/kit/define-task.ts";
import { lambdaWorker } from "#sdk/kit/lambda-worker.ts";
import { NonRetryableError } from "#sdk/kit/run-task.ts";
import { parseWorkflow } from "#sdk/submission/parse.ts";
import { type Submission, submitFlow } from "#sdk/submission/submit.ts";
import { claimBatch } from "#sdk/worker/claim.ts";
import { command } from "#shared/contract/command.ts";
import type { Edition } from "#shared/contract/edition.ts";
import type { ExecutionId } from "#shared/contract/ids.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { readyEntry } from "#shared/ready/message.ts";
import { SqsReadyPublisher } from "#shared/ready/publisher.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { accessOf, KINDS, SecuredValkey } from "#test/auth/secured.ts";
import { LANE, newFlowId, ROUTER } from "#test/support/flow-fixture.ts";
import { createReadyQueue } from "#test/support/ready.ts";
import { connectTo, onEveryPrimary } from "#test/support/valkey.ts";

const USER = "worker";
const PASSWORD = "of-the-worker";
const QUIET = { POWERTOOLS_LOG_LEVEL: "SILENT", POWERTOOLS_METRICS_DISABLED: "true" };
const CONTEXT = {
  getRemainingTimeInMillis: () => 60_000,
  functionName: "worker",
  awsRequestId: "1",
} as unknown as Context;

/** One task of every kind of outcome. In the 14-KEYS edition, a group cancels the sibling that has not begun. */
const workflow = (edition: Edition) => ({
  name: "outcomes",
  tasks: [
    { id: "a", payload: "succeed" },
    { id: "b", dependsOn: [{ task: "a", passData: true }] },
    { id: "c", payload: "fail" },
    { id: "d", dependsOn: ["c"] },
    { id: "e", payload: "retry", retry: { attempts: 2, backoff: { type: "fixed", delayMs: 0 } } },
    ...(edition === 11
      ? []
      : [
          { id: "f", payload: "succeed" },
          { id: "g", delaySeconds: 600 },
          {
            id: "h",
            dependsOn: ["f", "g"],
            waitFor: { anyOf: true, onSatisfied: "cancelRemaining" },
          },
        ]),
  ],
});

let queue: LocalQueue;
beforeAll(async () => {
  queue = await startQueue({ visibilityTimeoutSeconds: 60 });
});
afterAll(() => queue.stop());

const task = defineTask({
  kind: "task",
  timeout: "20s",
  run: async (input, { attempt, progress, upstream }) => {
    if (input === "fail") throw new NonRetryableError("as told");
    if (input === "retry" && attempt === 1) throw new Error("as told");
    await progress(50, "half");
    await upstream("a").catch(() => undefined);
    return { input };
  },
});

it.each(KINDS.flatMap((kind) => ([11, 14] as const).map((edition) => [kind, edition] as const)))(
  "a worker may run, retry, reclaim, cancel, dispatch and announce (%s, %i KEYS)",
  async (kind, edition) => {
    await using server = await SecuredValkey.start(kind, 1);
    const admin = connectTo(server.plain);
    await ensureLibrary(admin, edition);
    // The worker must load it itself.
    await onEveryPrimary(admin, "function", "FLUSH", "SYNC");
    await server.setUser(USER, PASSWORD, accessOf(USER));
    const client = queue.client();
    const url = await createReadyQueue(client, queue);
    Object.assign(process.env, queue.environment, QUIET);
    const handler = lambdaWorker({
      tasks: [task],
      environment: {
        ...queue.environment,
        ...server.as(USER, PASSWORD),
        FLOW_PARTITIONS: "",
        LIBRARY_EDITION: String(edition),
        COMPLETIONS_QUEUE_URL: queue.queueUrl,
        READY_QUEUES: JSON.stringify({ [LANE]: url }),
      },
    });
    // The first message finds no library.
    await handler({ Records: [recordOf(`{fp:1}:${randomUUID()}` as ExecutionId)] }, CONTEXT);
    const completions = new SqsCompletionPublisher(client, queue.queueUrl);
    const ready = new SqsReadyPublisher(client, new Map([[LANE, url]]));
    const submit = async (definition: object): Promise<Submission> => {
      const parsed = parseWorkflow(JSON.stringify(definition), "workflow");
      if (!parsed.ok) throw new Error(parsed.errors.join("\n"));
      return submitFlow({ valkey: admin, router: ROUTER, completions, ready }, parsed.value, {
        flowId: newFlowId(),
      });
    };
    const submission = await submit(workflow(edition));
    const poller = new Poller({
      client,
      queueUrl: url,
      environments: [{ invoke: (event) => handler(event, CONTEXT) }],
      longPollSeconds: 1,
      onError: (error) => {
        throw new Error(error);
      },
    });
    poller.start();
    const expected =
      edition === 11
        ? { a: "completed", b: "completed", c: "failed", d: "skipped", e: "completed" }
        : {
            ...{ a: "completed", b: "completed", c: "failed", d: "skipped", e: "completed" },
            ...{ f: "completed", g: "cancelled", h: "completed" },
          };
    await expect.poll(() => statesOf(admin, submission), { timeout: 30_000, interval: 50 }).toEqual(expected);
    await poller.stop();

    // An execution that another worker lost, one whose flow is cancelled, and one that has ended.
    const lost = await submit({ name: "lost", tasks: [{ id: "x" }] });
    const identity = { workerId: "dead", instanceId: "dead-1" };
    const source = { partition: lost.partition, lane: LANE };
    const claims = await claimBatch({ valkey: admin, router: ROUTER, completions, identity }, source, {
      limit: 1,
      leaseTtlMs: 1,
    });
    expect(claims).toHaveLength(1);
    const cancelled = await submit({ name: "cancelled", tasks: [{ id: "x", delaySeconds: 600 }] });
    const core = ROUTER.flowKeys(cancelled.flowId, cancelled.partition).core;
    // A cancellation that was interrupted before its members.
    await admin.pipelined([command(cancelled.partition, "hset", core, "public_flow_state", "cancelled")]);
    const ids = [lost, cancelled, submission].flatMap(({ flowId, executions }) =>
      [...executions.values()].slice(0, 1).map((id) => recordOf(id, flowId)),
    );
    await handler({ Records: ids }, CONTEXT);
    expect(await statesOf(admin, lost)).toEqual({ x: "completed" });
    expect(await statesOf(admin, cancelled)).toEqual({ x: "cancelled" });
    expect(await server.refusals()).toEqual([]);
    admin.close();
    client.destroy();
  },
  60_000,
);

function recordOf(executionId: ExecutionId, flowId?: Submission["flowId"]): SQSRecord {
  const entry = readyEntry({ executionId, flowId, lane: LANE, kind: "task" });
  return {
    messageId: randomUUID(),
    receiptHandle: "none",
    body: entry.MessageBody ?? "",
    attributes: {
      ApproximateReceiveCount: "1",
      SentTimestamp: String(Date.now()),
      SenderId: "",
      ApproximateFirstReceiveTimestamp: "",
    },
    messageAttributes: {},
    md5OfBody: "",
    eventSource: "aws:sqs",
    eventSourceARN: "arn",
    awsRegion: "us-east-1",
  };
}

async function statesOf(valkey: Valkey, { executions }: Submission): Promise<Record<string, string>> {
  const entries = [...executions];
  const reads = await valkey.pipelined(
    entries.map(([, id]) =>
      command(ROUTER.execKeys(id).partition, "hget", ROUTER.execKeys(id).core, "public_state"),
    ),
  );
  return Object.fromEntries(
    entries.map(([name], at) => {
      const read = reads[at];
      return [name, read?.ok ? String(read.value) : "unread"];
    }),
  );
}

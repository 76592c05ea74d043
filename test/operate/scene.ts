/** A flow in trouble, and an input for every operation that works on it. */

import { randomUUID } from "node:crypto";
import { SendMessageCommand } from "@aws-sdk/client-sqs";
import { z } from "zod";
import type { Operation } from "#operate/operation.ts";
import { parseWorkflow } from "#sdk/submission/parse.ts";
import { submitFlow } from "#sdk/submission/submit.ts";
import { workBatch } from "#sdk/worker/worker.ts";
import { type ExecutionId, type FlowId, type Partition, parseFlowId, unwrap } from "#shared/contract/ids.ts";
import { ROUTER, type StageBed } from "#test/operate/stage-bed.ts";
import { RecordingPublisher } from "#test/submission/fixture.ts";
import { LANE } from "#test/support/flow-fixture.ts";

const WORKFLOW = {
  name: "nightly",
  tasks: [
    { id: "fetch", lane: LANE },
    { id: "clean", lane: LANE, dependsOn: ["fetch"] },
    { id: "report", lane: LANE, dependsOn: ["clean"] },
    { id: "stock", lane: LANE },
  ],
};

export interface Scene {
  readonly flow: FlowId;
  readonly partition: Partition;
  /** An execution that failed, so that its children wait for the dispatcher. */
  readonly failed: ExecutionId;
  /** The id of the dead letter. */
  readonly message: string;
}

/** Submits the flow, fails its first execution, and puts the completion into the dead-letter queue. */
export async function setScene({ admin: valkey, queue }: StageBed): Promise<Scene> {
  const completions = new RecordingPublisher();
  const flowId = unwrap(parseFlowId(randomUUID()));
  const parsed = parseWorkflow(JSON.stringify(WORKFLOW), "nightly");
  if (!parsed.ok) throw new Error(parsed.errors.join());
  const ports = { valkey, router: ROUTER, completions };
  const flow = await submitFlow(ports, parsed.value, { flowId });
  const [failed] = await workBatch(
    { ...ports, identity: { workerId: "test", instanceId: randomUUID() } },
    { partition: flow.partition, lane: LANE },
    () => Promise.reject(new Error("disk full")),
    { limit: 1 },
  );
  if (failed === undefined) throw new Error("nothing was claimed");
  const sent = await queue.client.send(
    new SendMessageCommand({
      QueueUrl: queue.queue.deadLetterQueueUrl,
      MessageBody: JSON.stringify({ execution_id: failed.id, flow_id: flowId, outcome: "failed" }),
    }),
  );
  return { flow: flowId, partition: flow.partition, failed: failed.id, message: sent.MessageId ?? "" };
}

/** Inputs of operations whose properties do not say what to pass. */
const INPUTS: Readonly<Record<string, object>> = {
  submit: { workflow: JSON.stringify(WORKFLOW) },
};

/**
 * A valid input of an operation: the flow, the execution or the lane, whichever it takes, and else nothing. A new operation with
 * other required properties needs an entry in `INPUTS`.
 */
export function inputOf(
  { name, input }: Operation<unknown, unknown>,
  { flow, failed, message }: Scene,
): object {
  const special = INPUTS[name];
  if (special !== undefined) return special;
  const schema = z.toJSONSchema(input, { io: "input", unrepresentable: "any" });
  const properties = Object.keys(schema.properties ?? {});
  const required = schema.required ?? [];
  const targets: Readonly<Record<string, unknown>> = { execution: failed, flow, lane: LANE, lanes: [LANE] };
  const values: Readonly<Record<string, unknown>> = { ...targets, priority: 5, message_id: message };
  const target = Object.keys(targets).find((key) => properties.includes(key));
  const chosen = required.some((key) => key in targets) || target === undefined ? [] : [target];
  return Object.fromEntries([...required, ...chosen].map((key) => [key, values[key]]));
}

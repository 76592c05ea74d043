/** Flows in trouble on a Valkey and queues of their own, and `explain` on them. */

import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, expect } from "vitest";
import { type BatchResponse, processBatch } from "#functions/dispatch/batch.ts";
import { recordOf } from "#local/event.ts";
import type { Cause } from "#operate/explain/causes.ts";
import type { Explanation } from "#operate/explain/explain.ts";
import type { OperateContext } from "#operate/operation.ts";
import { explain } from "#operate/read/explain.ts";
import { submitFlow } from "#sdk/submission/submit.ts";
import type { Workflow } from "#sdk/submission/workflow.ts";
import { type LaneId, parseFlowId, parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { type ExecKeys, PARTITION_CONFIG_KEY } from "#shared/contract/keys.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import { SUBMISSION_FIELDS } from "#shared/contract/submission.ts";
import { dispatch } from "#shared/dispatch/dispatcher.ts";
import { BatchSender } from "#shared/queue/batch-sender.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { sluice } from "#test/cli/support.ts";
import { workflowOf } from "#test/submission/fixture.ts";
import { dispatchAll, portsOf } from "#test/support/dispatch.ts";
import { FlowFixture } from "#test/support/flow-fixture.ts";
import { asOperator } from "#test/support/operators.ts";
import {
  type ReconcilerServers,
  RecordedGauges,
  type SERVER_KINDS,
  SubmittedFlow,
  useReconcilerServers,
} from "#test/support/reconcile.ts";
import { connectTo } from "#test/support/valkey.ts";

/** The count of the deployment under test. */
const PARTITIONS = 256;
export const BED_ROUTER = new PartitionRouter({
  numFlowPartitions: PARTITIONS,
  numBudgetPartitions: 32,
  numQuotaPartitions: 32,
});
const MINUTE_MS = 60_000;

/** The connections of the user of operate-read: `explain` may use no command that the function may not. */
const readers = new WeakMap<ReconcilerServers, Valkey>();

/** Call within a `describe`: starts the servers for its tests. */
export function useTroubledServers(kind: (typeof SERVER_KINDS)[number]): () => ReconcilerServers {
  const servers = useReconcilerServers(kind, 14);
  beforeAll(async () => {
    const { address, valkey } = servers();
    await valkey.call("hset", PARTITION_CONFIG_KEY, "num_flow_partitions", PARTITIONS);
    const url = new URL(await asOperator("read", address));
    readers.set(servers(), connectTo({ ...address, url }));
  });
  afterAll(() => readers.get(servers())?.close());
  return servers;
}

function readerOf(servers: ReconcilerServers): Valkey {
  const reader = readers.get(servers);
  if (reader === undefined) throw new Error("the servers have not started yet");
  return reader;
}

/** A lane that no other test uses: the state of a lane is one of all partitions. */
function newLane(): LaneId {
  return unwrap(parseLaneId(`lane-${randomUUID()}`));
}

/** A new flow on the servers. */
export function fixtureOn(servers: ReconcilerServers, lane = newLane()): FlowFixture {
  const flowId = unwrap(parseFlowId(randomUUID()));
  return new FlowFixture(servers.valkey, lane, BED_ROUTER, servers.edition, flowId);
}

/** Submits edges like `a>b`, or tasks of one's own. The completions go to the queue. */
export async function submitOn(
  servers: ReconcilerServers,
  work: readonly string[] | Workflow,
): Promise<SubmittedFlow> {
  const fixture = fixtureOn(servers);
  const workflow = isWorkflow(work) ? work : workflowOf(...work);
  const tasks = workflow.tasks.map((one) => ({ ...one, lane: fixture.lane }));
  const { client, queue } = servers.queue;
  const ports = {
    valkey: servers.valkey,
    router: BED_ROUTER,
    completions: new SqsCompletionPublisher(client, queue.queueUrl),
  };
  return new SubmittedFlow(
    fixture,
    await submitFlow(ports, { ...workflow, tasks }, { flowId: fixture.flow.id }),
  );
}

function isWorkflow(work: readonly string[] | Workflow): work is Workflow {
  return !Array.isArray(work);
}

function contextOn(servers: ReconcilerServers, overrides: Partial<OperateContext> = {}): OperateContext {
  const { client, queue } = servers.queue;
  return {
    valkey: readerOf(servers),
    router: BED_ROUTER,
    edition: servers.edition,
    sqs: client,
    queues: { completions: queue.queueUrl, deadLetters: queue.deadLetterQueueUrl, ready: new Map() },
    completions: new SqsCompletionPublisher(client, queue.queueUrl),
    ready: undefined,
    environment: {},
    actor: "test",
    deadlineMs: Date.now() + MINUTE_MS,
    ...overrides,
  };
}

/** Explains an execution, and checks the answer against its schema. */
export async function explainOn(
  servers: ReconcilerServers,
  execution: ExecKeys | string,
  {
    context = {},
    ...input
  }: { context?: Partial<OperateContext>; flow?: string; edges?: number; cursor?: string } = {},
): Promise<Explanation> {
  const id = typeof execution === "string" ? execution : execution.id;
  const parsed = explain.input.parse({ execution: id, ...input });
  const explanation = explain.output.parse(await explain.run(contextOn(servers, context), parsed));
  for (const line of explanation.next) await expectAccepted(line);
  return explanation;
}

/** Checks that the command line accepts a line that `explain` proposes. Without a deployment, it gets no further. */
async function expectAccepted(line: string): Promise<void> {
  const [program, ...words] = line.split(" ").map((word) => word.replace(/^'(.*)'$/, "$1"));
  const { stderr } = await sluice(words);
  const accepted = expect.stringMatching(/^sluice: (no deployment is named|this command changes state)/);
  expect({ line, program, stderr }).toEqual({ line, program: "sluice", stderr: accepted });
}

export function codesOf({ causes }: Explanation): string[] {
  return causes.map(({ code }) => code).sort();
}

/** The cause with this code. Fails with all codes if there is none. */
export function causeOf({ causes }: Explanation, code: Cause["code"]): Cause {
  const found = causes.find((one) => one.code === code);
  if (found === undefined)
    throw new Error(`no cause ${code}, only ${causes.map((one) => one.code).join(", ")}`);
  return found;
}

/** Sets the times of an ended execution to some minutes ago, in its record and its index. */
export async function ageEnd(fixture: FlowFixture, keys: ExecKeys, agoMs = 5 * MINUTE_MS): Promise<void> {
  const endedAt = Date.now() - agoMs;
  const { terminal } = fixture.index.lane(fixture.lane);
  await fixture.read("hset", keys.core, "completed_at", endedAt, "last_transition_at", endedAt);
  await fixture.read("zadd", terminal, "XX", endedAt, keys.id);
}

/** Lets a flow look as if its submission ended some minutes ago: its roots wait since then. */
export async function ageSubmission(flow: SubmittedFlow, agoMs = 5 * MINUTE_MS): Promise<void> {
  const { fixture, submission } = flow;
  const endedAt = Date.now() - agoMs;
  await fixture.read("hset", fixture.flow.core, SUBMISSION_FIELDS.completedAt, endedAt);
  for (const name of submission.executions.keys()) {
    await fixture.read("hset", flow.keys(name).core, "last_transition_at", endedAt);
  }
}

/** Processes what is in the queue as the dispatch function does, dead letters included. Returns the messages to retry. */
export async function processQueued(servers: ReconcilerServers): Promise<BatchResponse> {
  const ports = portsOf(servers.valkey, servers.queue, { router: BED_ROUTER });
  const { client, queue } = servers.queue;
  const messages = await servers.queue.drain();
  return processBatch(
    {
      dispatch: (events, deadlineMs) => dispatch({ ...ports, deadlineMs }, events),
      deadLetterQueue: new BatchSender(client, queue.deadLetterQueueUrl),
      maxCascadeDepth: ports.maxCascadeDepth,
      telemetry: new RecordedGauges(),
      messageLogger: { info: () => undefined },
    },
    messages.map((message) => recordOf(message, { queueArn: "arn", region: "us-east-1" })),
    Date.now() + MINUTE_MS,
  );
}

/** Dispatches what is in the queue until it is empty. Returns the number of messages. */
export async function dispatchQueued(servers: ReconcilerServers, maxCascadeDepth = 50): Promise<number> {
  const ports = portsOf(servers.valkey, servers.queue, { router: BED_ROUTER, maxCascadeDepth });
  for (let messages = 0; ; ) {
    const events = await servers.queue.drainEvents();
    if (events.length === 0) return messages;
    messages += events.length;
    for (const errors of await dispatchAll(ports, events)) if (errors[0] !== undefined) throw errors[0];
  }
}

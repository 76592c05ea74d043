/**
 * Workers of the kit die around any pipeline and any request to a queue, as Lambda functions and as containers, while ready
 * messages are lost, doubled and reordered. The sweeps of the reconciler recover what no message recovers.
 */

import { randomUUID } from "node:crypto";
import {
  CreateQueueCommand,
  type Message,
  ReceiveMessageCommand,
  SendMessageCommand,
} from "@aws-sdk/client-sqs";
import { recordOf } from "#local/event.ts";
import type { FunctionProcess } from "#local/function-process.ts";
import { defineTask } from "#sdk/kit/define-task.ts";
import { inlineDispatch } from "#sdk/kit/inline-dispatch.ts";
import { runLambdaBatch } from "#sdk/kit/lambda-batch.ts";
import { LanePool } from "#sdk/kit/lane-pool.ts";
import { ReadyQueues } from "#sdk/kit/ready-queues.ts";
import { TaskRegistry } from "#sdk/kit/registry.ts";
import type { ExecutionHandler } from "#sdk/worker/worker.ts";
import { command } from "#shared/contract/command.ts";
import {
  type ExecutionId,
  type LaneId,
  parseExecutionId,
  parseLaneId,
  unwrap,
} from "#shared/contract/ids.ts";
import { readyResentKey } from "#shared/contract/keys.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { SqsReadyPublisher } from "#shared/ready/publisher.ts";
import { parseReadiness, readReadiness } from "#shared/ready/readiness.ts";
import { valueOrThrow } from "#shared/valkey/batches.ts";
import type { ModelGraph } from "#test/dispatch/model.ts";
import { type CaseContext, type FaultKind, runToEnd, UnsuitableCaseError } from "#test/faults/case.ts";
import { join } from "#test/faults/findings.ts";
import { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { wideGraph } from "#test/faults/graph.ts";
import { Lapses } from "#test/faults/leases.ts";
import { type Death, MortalWorker } from "#test/faults/mortal-worker.ts";
import { RECONCILED } from "#test/faults/reconcile.ts";
import { Standalone } from "#test/faults/servers.ts";
import { TestBed } from "#test/faults/test-bed.ts";

/** What the cases of a test bed share. */
interface Ready {
  readonly url: string;
  readonly dispatch: FunctionProcess;
  readonly reconcile: FunctionProcess;
}

const LANE = unwrap(parseLaneId("default"));
const beds = new WeakMap<TestBed, Ready>();
const SOURCE = { queueArn: "arn:aws:sqs:us-east-1:000000000000:ready", region: "us-east-1" };
const HIDDEN_SECONDS = 600;
/** An execution may be reclaimed five times, so it survives as many lost leases. */
const MAX_LAPSES = 5;
/** A Lambda worker makes about as many calls for a batch, and a container worker for a few. */
const MAX_CALLS = { lambda: 7, container: 14 };
const MAX_SWEEPS = 20;
const INVOCATION_MS = 20_000;
const SHORT_LEASE_MS = 90;
const DEATH_PERCENT = 75;
const LOST_PERCENT = 10;
const DOUBLED_PERCENT = 15;
const LATE_PERCENT = 15;
const SILENT = {
  count: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};
const NO_METRICS = { ran: () => undefined, unknownKind: () => undefined };

export const kit: FaultKind = {
  name: "kit",
  cases: { full: 200, quick: 6 },
  startTestBed: async () => {
    const bed = await TestBed.start(await Standalone.start(), RECONCILED);
    const { QueueUrl: url = "" } = await bed.sqs.send(
      new CreateQueueCommand({
        QueueName: `ready-${randomUUID()}`,
        Attributes: { VisibilityTimeout: String(HIDDEN_SECONDS) },
      }),
    );
    const own = new URL(new URL(url).pathname, bed.queue.endpoint).href;
    const environment = { READY_QUEUES: JSON.stringify({ default: own }), LANES: "default" };
    beds.set(bed, {
      url: own,
      dispatch: bed.startFunction("dispatch", environment),
      reconcile: bed.startFunction("reconcile", { ...environment, RECONCILE_GRACE_SECONDS: "0" }),
    });
    return bed;
  },
  run: async (context) => {
    const { bed, random } = context;
    const ready = beds.get(bed);
    if (ready === undefined) throw new RangeError("the test bed has no ready queue");
    const workers = new Workers(context, ready);
    const flow = await FlowUnderTest.build(bed, random, withoutCancelled(wideGraph(random)), {
      round: (one, run) => workers.round(one, run),
    });
    await workers.announce(flow);
    const deliver = (records: Parameters<TestBed["deliver"]>[0]) => bed.deliver(records, ready.dispatch);
    await runToEnd(context, flow, deliver);
    for (let sweep = 0; sweep < MAX_SWEEPS && !(await workers.hasEnded(flow)); sweep += 1) {
      await workers.lapses.lapse(bed, flow);
      // The time between two messages of the reconciler for one execution is compressed, too.
      const resent = flow.tasks.map(({ id, partition }) =>
        command(partition, "del", readyResentKey(id, flow.flowKeys.id)),
      );
      for (const result of await bed.valkey.pipelined(resent)) valueOrThrow(result);
      bed.note(`the reconciler: ${JSON.stringify(await ready.reconcile.invoke({}))}`);
      await runToEnd(context, flow, deliver);
    }
    if (workers.deaths === 0) throw new UnsuitableCaseError("no worker died");
    const findings = await flow.compareWithModel({ moreRuns: workers.lapses.counts, mayLeaveEdges: true });
    return join([findings, { lost: [], wronglySkipped: [], duplicated: workers.repeated, inconsistent: [] }]);
  },
};

/** Cancelled tasks are another kind's: here, a message may reach a worker before its task is cancelled. */
function withoutCancelled(graph: ModelGraph): ModelGraph {
  return { ...graph, outcomes: graph.outcomes.map((one) => (one === "cancelled" ? "failed" : one)) };
}

class Workers {
  readonly lapses = new Lapses();
  readonly repeated: string[] = [];
  deaths = 0;
  readonly #context: CaseContext;
  readonly #ready: Ready;
  readonly #runs = new Set<string>();
  #rounds = 0;

  constructor(context: CaseContext, ready: Ready) {
    this.#context = context;
    this.#ready = ready;
  }

  /** One worker receives and runs executions, until its death or until it finds nothing. Returns how many messages it settled. */
  async round(flow: FlowUnderTest, run: ExecutionHandler): Promise<number> {
    const { bed, random, number, onReached } = this.#context;
    this.#rounds += 1;
    const mayDie = Math.max(0, ...this.lapses.counts.values()) < MAX_LAPSES;
    const isLambda = number % 2 === 0;
    const death: Death | undefined =
      mayDie && random.chance(DEATH_PERCENT)
        ? {
            call: random.below(isLambda ? MAX_CALLS.lambda : MAX_CALLS.container),
            timing: random.pick(["before", "during", "after"]),
          }
        : undefined;
    const worker = new MortalWorker(bed, death, (max) => this.#receive(max));
    const isShort = isLambda && random.chance(20);
    const worked = isLambda ? await this.#lambda(worker, run, isShort) : await this.#container(worker, run);
    await worker.releaseMessages();
    const { diedAt } = worker;
    if (diedAt !== undefined) {
      this.deaths += 1;
      onReached(`${isLambda ? "Lambda" : "container"} worker died ${diedAt}`);
      bed.note(`worker ${this.#rounds} died ${diedAt}`);
    }
    // A short lease may have run out by itself.
    if (isShort || (diedAt !== undefined && random.chance(70))) await this.lapses.lapse(bed, flow);
    return diedAt === undefined ? worked : 1;
  }

  /** Announces the roots, as submission does. */
  async announce(flow: FlowUnderTest): Promise<void> {
    const { bed, random } = this.#context;
    const reads = await bed.valkey.pipelined(flow.tasks.map((keys) => readReadiness(keys)));
    const ready = flow.tasks.flatMap(({ id }, at) => {
      const read = reads[at];
      const readiness = read?.ok ? parseReadiness(read.value) : undefined;
      return readiness === undefined
        ? []
        : [{ executionId: id, flowId: flow.flowKeys.id, lane: readiness.lane, kind: readiness.kind }];
    });
    await this.#publisher(bed.sqs).announce(random.shuffled(ready));
  }

  async hasEnded(flow: FlowUnderTest): Promise<boolean> {
    const states = await flow.observe();
    return states.every(({ indexes }) => indexes.join() === "terminal");
  }

  async #lambda(worker: MortalWorker, run: ExecutionHandler, isShort: boolean): Promise<number> {
    const { bed, random } = this.#context;
    const messages = await this.#receive(random.between(1, 4));
    if (messages.length === 0) return 0;
    const records = messages.map((message) => recordOf(message, SOURCE));
    const queues = new ReadyQueues(worker, this.#urls());
    const completions = new SqsCompletionPublisher(worker, bed.queue.queueUrl);
    const ready = this.#publisher(worker);
    const ports = {
      valkey: worker,
      router: bed.router,
      identity: { workerId: "kit", instanceId: `kit-${this.#rounds}` },
      retryDelaysMs: [],
      completions,
      ready,
      queues,
      dispatch: random.chance(75)
        ? inlineDispatch({
            valkey: worker,
            router: bed.router,
            publisher: completions,
            ready,
            telemetry: SILENT,
            ensureLibrary: () => bed.loadLibrary(),
            now: Date.now,
          })
        : undefined,
      log: SILENT,
      metrics: NO_METRICS,
      now: Date.now,
      ...(isShort ? { leaseTtlMs: SHORT_LEASE_MS } : {}),
    };
    const response = await Promise.race([
      runLambdaBatch(
        ports,
        this.#registry(run, isShort ? SHORT_LEASE_MS / 2 : 0),
        records,
        Date.now() + INVOCATION_MS,
      ),
      worker.death,
    ]);
    const failed = new Set(
      response?.batchItemFailures.map(({ itemIdentifier }) => itemIdentifier) ??
        records.map(({ messageId }) => messageId),
    );
    await bed.settle(records, { failed }, this.#ready.url);
    return records.length - failed.size;
  }

  async #container(worker: MortalWorker, run: ExecutionHandler): Promise<number> {
    const { bed, random } = this.#context;
    const stop = new AbortController();
    let settled = 0;
    const registry = this.#registry(run, 0);
    const pool = new LanePool(
      {
        valkey: worker,
        router: bed.router,
        sqs: worker,
        completions: new SqsCompletionPublisher(worker, bed.queue.queueUrl),
        readyQueueUrls: this.#urls(),
        dispatch: random.chance(75) ? "inline" : "queue",
        telemetry: SILENT,
        metrics: { ...NO_METRICS, ran: () => (settled += 1) },
        ensureLibrary: () => bed.loadLibrary(),
      },
      registry,
      new Map([[LANE, random.between(1, 4)]]),
    );
    // A container that is told to stop at any time gives back what has not begun.
    const receives = random.chance(30) ? random.between(1, 3) : Number.POSITIVE_INFINITY;
    worker.onEmpty = (count) => {
      if (pool.isIdle || count >= receives) stop.abort();
    };
    await Promise.race([pool.run(stop.signal, INVOCATION_MS), worker.death]);
    stop.abort();
    pool[Symbol.dispose]();
    return settled;
  }

  #registry(run: ExecutionHandler, pauseMs: number): TaskRegistry {
    return new TaskRegistry([
      defineTask({
        kind: "task",
        timeout: "5s",
        run: async (_input, { executionId, attempt }) => {
          const one = `attempt ${attempt} of ${executionId}`;
          if (this.#runs.has(one)) this.repeated.push(`${one} ran twice`);
          this.#runs.add(one);
          if (pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, pauseMs));
          const outcome = await run({ id: idOf(executionId) } as Parameters<ExecutionHandler>[0]);
          if (outcome.outcome === "failed") throw new Error(outcome.reason);
          return "done";
        },
      }),
    ]);
  }

  #urls(): ReadonlyMap<LaneId, string> {
    return new Map([[LANE, this.#ready.url]]);
  }

  #publisher(client: ConstructorParameters<typeof SqsReadyPublisher>[0]): SqsReadyPublisher {
    return new SqsReadyPublisher(client, this.#urls());
  }

  /** Receives ready messages. Loses, doubles and reorders some of them. */
  async #receive(max: number): Promise<Message[]> {
    const { bed, random } = this.#context;
    const { Messages: messages = [] } = await bed.sqs.send(
      new ReceiveMessageCommand({
        QueueUrl: this.#ready.url,
        MaxNumberOfMessages: max,
        MessageAttributeNames: ["All"],
        MessageSystemAttributeNames: ["All"],
      }),
    );
    const passed: Message[] = [];
    for (const message of random.shuffled(messages)) {
      const record = recordOf(message, SOURCE);
      if (random.chance(LOST_PERCENT)) await bed.acknowledge([record], this.#ready.url);
      else if (random.chance(LATE_PERCENT)) await bed.release([record], this.#ready.url);
      else passed.push(message);
      if (random.chance(DOUBLED_PERCENT)) {
        await bed.sqs.send(
          new SendMessageCommand({
            QueueUrl: this.#ready.url,
            MessageBody: record.body,
            MessageAttributes: message.MessageAttributes,
          }),
        );
      }
    }
    return passed;
  }
}

function idOf(text: string): ExecutionId {
  return unwrap(parseExecutionId(text));
}

/** A Valkey and a queue per test file: a deployment has only one lease and one checkpoint. */

import { afterAll, beforeAll, beforeEach } from "vitest";
import { startValkey, startValkeyCluster, type ValkeyServer } from "#local/valkey-server.ts";
import { type Submission, submitFlow } from "#sdk/submission/submit.ts";
import type { Edition } from "#shared/contract/edition.ts";
import type { ExecutionId, Partition } from "#shared/contract/ids.ts";
import { type ExecKeys, LANES_KEY } from "#shared/contract/keys.ts";
import { SqsBacklog } from "#shared/queue/backlog.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { CHECKPOINT_KEY, LEASE_KEY } from "#shared/reconcile/lease.ts";
import { formatMark, parseMark } from "#shared/reconcile/resend-policy.ts";
import type { ReconcilerPorts } from "#shared/reconcile/sweep.ts";
import { dependencies } from "#shared/reconcile/tasks/dependencies.ts";
import type { GaugeName, GaugingTelemetry } from "#shared/runtime/telemetry.ts";
import type { ValkeyAddress } from "#shared/valkey/address.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { RecordingPublisher, workflowOf } from "#test/submission/fixture.ts";
import { QueueProbe, RecordedTelemetry } from "#test/support/dispatch.ts";
import { FlowFixture, LANE, ROUTER } from "#test/support/flow-fixture.ts";
import { connectTo } from "#test/support/valkey.ts";

export class RecordedGauges extends RecordedTelemetry implements GaugingTelemetry {
  readonly gauges = new Map<GaugeName, number>();

  measure(metric: GaugeName, value: number): void {
    this.gauges.set(metric, value);
  }
}

export const SERVER_KINDS = ["standalone", "cluster"] as const;
export const MINUTE_MS = 60_000;

interface Parts {
  readonly server: ValkeyServer;
  readonly address: ValkeyAddress;
  readonly valkey: Valkey;
  readonly queue: QueueProbe;
}

/** A Valkey and a queue, and what a test needs to submit flows to them and to sweep them. */
export class ReconcilerServers {
  readonly server: ValkeyServer;
  readonly address: ValkeyAddress;
  readonly valkey: Valkey;
  readonly queue: QueueProbe;
  readonly edition: Edition;

  private constructor({ server, address, valkey, queue }: Parts, edition: Edition) {
    this.server = server;
    this.address = address;
    this.valkey = valkey;
    this.queue = queue;
    this.edition = edition;
  }

  static async start(kind: (typeof SERVER_KINDS)[number], edition: Edition): Promise<ReconcilerServers> {
    const server = await (kind === "cluster" ? startValkeyCluster() : startValkey());
    const address = { url: server.url, cluster: kind === "cluster" };
    const valkey = connectTo(address);
    await ensureLibrary(valkey, edition);
    return new ReconcilerServers({ server, address, valkey, queue: await QueueProbe.start() }, edition);
  }

  fixture(lane = LANE): FlowFixture {
    return new FlowFixture(this.valkey, lane, undefined, this.edition);
  }

  /** The ports of a sweep over the given partitions, or over those of the given flows. */
  ports(
    partitions: readonly (Partition | FlowFixture | SubmittedFlow)[],
    overrides: Partial<Omit<ReconcilerPorts, "telemetry">> = {},
  ): ReconcilerPorts & { readonly telemetry: RecordedGauges } {
    return {
      valkey: this.valkey,
      publisher: new SqsCompletionPublisher(this.queue.client, this.queue.queue.queueUrl),
      backlog: new SqsBacklog(this.queue.client, this.queue.queue.queueUrl),
      ensureLibrary: async () => {
        await ensureLibrary(this.valkey, this.edition);
      },
      router: ROUTER,
      partitions: partitions
        .map((item) => {
          if (item instanceof SubmittedFlow) return item.submission.partition;
          return item instanceof FlowFixture ? item.flow.partition : item;
        })
        .toSorted((left, right) => left - right),
      tasks: [dependencies],
      lanes: [LANE],
      likelyLanes: [],
      graceMs: MINUTE_MS / 2,
      deadlineMs: Number.POSITIVE_INFINITY,
      intervalMs: Number.POSITIVE_INFINITY,
      now: Date.now,
      sleep: () => Promise.reject(new Error("a run without repetitions waits for nothing")),
      ...overrides,
      telemetry: new RecordedGauges(),
    };
  }

  /** Empties the queue and returns the executions whose completions it had. */
  async drainSent(): Promise<ExecutionId[]> {
    return (await this.queue.drainEvents()).map(({ executionId }) => executionId).sort();
  }

  /** Submits a workflow of edges like `a>b`. */
  async submit(...edges: string[]): Promise<SubmittedFlow> {
    const fixture = this.fixture();
    const deps = { valkey: this.valkey, router: ROUTER, completions: new RecordingPublisher() };
    const options = { flowId: fixture.flow.id, edition: this.edition };
    return new SubmittedFlow(fixture, await submitFlow(deps, workflowOf(...edges), options));
  }

  async stop(): Promise<void> {
    this.valkey.close();
    await this.queue[Symbol.asyncDispose]();
    await this.server.stop();
  }
}

/** A submitted workflow. Its methods take task ids. */
export class SubmittedFlow {
  readonly fixture: FlowFixture;
  readonly submission: Submission;

  constructor(fixture: FlowFixture, submission: Submission) {
    this.fixture = fixture;
    this.submission = submission;
  }

  keys(task: string): ExecKeys {
    const id = this.submission.executions.get(task);
    if (id === undefined) throw new Error(`no task ${task}`);
    return ROUTER.execKeys(id);
  }

  /** Ends a task without sending its completion. Its record says that it ended `agoMs` ago. */
  async end(task: string, outcome: "success" | "failed" = "success", agoMs = MINUTE_MS): Promise<void> {
    await this.fixture.finish(this.keys(task), outcome);
    await backdateEnd(this.fixture, this.keys(task), agoMs);
  }

  /** The reconciler's mark of a task; null if it has none. */
  async mark(task: string): Promise<unknown> {
    return this.fixture.read("get", this.keys(task).resent(this.fixture.flow.id));
  }

  /** Makes the mark of a task older, as if so much time had passed. */
  async backdateMark(task: string, byMs: number): Promise<void> {
    const mark = parseMark(String(await this.mark(task)));
    if (mark === undefined) throw new Error(`${task} has no mark`);
    const text = formatMark({ ...mark, sentAtMs: mark.sentAtMs - byMs });
    await this.fixture.read("set", this.keys(task).resent(this.fixture.flow.id), text);
  }
}

/** Sets the end of an execution to `agoMs` before now. */
export async function backdateEnd(fixture: FlowFixture, keys: ExecKeys, agoMs: number): Promise<void> {
  await fixture.read("hset", keys.core, "completed_at", Date.now() - agoMs);
}

/** Call within a `describe`: starts the servers for its tests. Before each test the queue is empty and no sweep has begun. */
export function useReconcilerServers(
  kind: (typeof SERVER_KINDS)[number],
  edition: Edition = 11,
): () => ReconcilerServers {
  let servers: ReconcilerServers | undefined;
  const get = (): ReconcilerServers => {
    if (servers === undefined) throw new Error("the servers have not started yet");
    return servers;
  };
  beforeAll(async () => {
    servers = await ReconcilerServers.start(kind, edition);
  });
  beforeEach(async () => {
    await get().queue.drain();
    for (const key of [LEASE_KEY, CHECKPOINT_KEY, LANES_KEY]) {
      await get().valkey.call("del", key);
    }
  });
  afterAll(async () => {
    await servers?.stop();
  });
  return get;
}

/** A reconciler on a Valkey of its own: its lease and its place are one of each in a deployment. */

import { afterAll, beforeAll, beforeEach } from "vitest";
import { startValkey, startValkeyCluster, type ValkeyServer } from "#local/valkey-server.ts";
import { type Submission, submitFlow } from "#sdk/submission/submit.ts";
import type { Edition } from "#shared/contract/edition.ts";
import type { ExecutionId, Partition } from "#shared/contract/ids.ts";
import { type ExecKeys, LANES_KEY } from "#shared/contract/keys.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { LEASE_KEY, PLACE_KEY } from "#shared/reconcile/lease.ts";
import type { ReconcilerPorts } from "#shared/reconcile/run.ts";
import type { GaugeName, GaugingTelemetry } from "#shared/runtime/telemetry.ts";
import type { ValkeyAddress } from "#shared/valkey/address.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { RecordingPublisher, workflowOf } from "#test/submission/fixture.ts";
import { QueueProbe, RecordedTelemetry } from "#test/support/dispatch.ts";
import { FlowFixture, LANE, ROUTER } from "#test/support/flow-fixture.ts";
import { connectTo } from "#test/support/valkey.ts";

export class RecordedSweep extends RecordedTelemetry implements GaugingTelemetry {
  readonly gauges = new Map<GaugeName, number>();

  measure(metric: GaugeName, value: number): void {
    this.gauges.set(metric, value);
  }
}

export const KINDS = ["standalone", "cluster"] as const;
export const MINUTE_MS = 60_000;

interface Parts {
  readonly server: ValkeyServer;
  readonly address: ValkeyAddress;
  readonly valkey: Valkey;
  readonly queue: QueueProbe;
}

/** Servers of a test file's own. */
export class Stand {
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

  static async start(kind: (typeof KINDS)[number], edition: Edition): Promise<Stand> {
    const server = await (kind === "cluster" ? startValkeyCluster() : startValkey());
    const address = { url: server.url, cluster: kind === "cluster" };
    const valkey = connectTo(address);
    await ensureLibrary(valkey, edition);
    return new Stand({ server, address, valkey, queue: await QueueProbe.start() }, edition);
  }

  fixture(lane = LANE): FlowFixture {
    return new FlowFixture(this.valkey, lane, undefined, this.edition);
  }

  /** What a sweep of some partitions needs, with a real queue. */
  ports(
    partitions: readonly (Partition | FlowFixture | Flow)[],
    overrides: Partial<Omit<ReconcilerPorts, "telemetry">> = {},
  ): ReconcilerPorts & { readonly telemetry: RecordedSweep } {
    return {
      valkey: this.valkey,
      publisher: new SqsCompletionPublisher(this.queue.client, this.queue.queue.queueUrl),
      ensureLibrary: async () => {
        await ensureLibrary(this.valkey, this.edition);
      },
      router: ROUTER,
      partitions: partitions
        .map((one) => {
          if (one instanceof Flow) return one.submission.partition;
          return one instanceof FlowFixture ? one.flow.partition : one;
        })
        .toSorted((left, right) => left - right),
      lanes: [LANE],
      likelyLanes: [],
      graceMs: MINUTE_MS / 2,
      deadlineMs: Number.POSITIVE_INFINITY,
      now: Date.now,
      ...overrides,
      telemetry: new RecordedSweep(),
    };
  }

  /** The executions whose completions the queue holds, which is empty after that. */
  async sent(): Promise<ExecutionId[]> {
    return (await this.queue.drainEvents()).map(({ executionId }) => executionId).sort();
  }

  /** A workflow of edges like `a>b`, submitted whole. */
  async submitted(...edges: string[]): Promise<Flow> {
    const fixture = this.fixture();
    const deps = { valkey: this.valkey, router: ROUTER, completions: new RecordingPublisher() };
    const options = { flowId: fixture.flow.id, edition: this.edition };
    return new Flow(fixture, await submitFlow(deps, workflowOf(...edges), options));
  }

  async stop(): Promise<void> {
    this.valkey.close();
    await this.queue[Symbol.asyncDispose]();
    await this.server.stop();
  }
}

/** A submitted workflow, whose executions are called by their task ids. */
export class Flow {
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

  /** Ends a task, `agoMs` ago by its record, and tells nobody. */
  async end(task: string, outcome: "success" | "failed" = "success", agoMs = MINUTE_MS): Promise<void> {
    await this.fixture.finish(this.keys(task), outcome);
    await endedAgo(this.fixture, this.keys(task), agoMs);
  }
}

/** Moves an execution's end into the past. */
export async function endedAgo(fixture: FlowFixture, keys: ExecKeys, agoMs: number): Promise<void> {
  await fixture.read("hset", keys.core, "completed_at", Date.now() - agoMs);
}

/** Within a `describe`: a stand for its tests, each of which finds the queue empty and no sweep begun. */
export function standFor(kind: (typeof KINDS)[number], edition: Edition = 11): () => Stand {
  let stand: Stand | undefined;
  const get = (): Stand => {
    if (stand === undefined) throw new Error("the servers are not started");
    return stand;
  };
  beforeAll(async () => {
    stand = await Stand.start(kind, edition);
  });
  beforeEach(async () => {
    await get().queue.drain();
    for (const key of [LEASE_KEY, PLACE_KEY, LANES_KEY]) {
      await get().valkey.call("del", key);
    }
  });
  afterAll(async () => {
    await stand?.stop();
  });
  return get;
}

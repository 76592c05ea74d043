/** A flow in a partition that no other test uses, and the calls that bring its executions into a state. */

import { randomUUID } from "node:crypto";
import { inject } from "vitest";
import type { ValkeyArgument, ValkeyCommand } from "#shared/contract/command.ts";
import type { Edition } from "#shared/contract/edition.ts";
import { type EdgeGroupPolicy, setEdgeGroupPolicy } from "#shared/contract/groups.ts";
import {
  type AttemptIndex,
  type ExecutionId,
  type FlowId,
  type LaneId,
  mintExecutionId,
  parseAttemptIndex,
  parseEdgeId,
  parseLaneId,
  unwrap,
} from "#shared/contract/ids.ts";
import type { ExecKeys, FlowKeys, IndexKeys } from "#shared/contract/keys.ts";
import {
  cancelExecution,
  claimExecution,
  completeExecution,
  failExecution,
  issueClaimGrant,
  type Lease,
  type Target,
  type WorkerIdentity,
} from "#shared/contract/ownership.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import type { TerminalOutcome } from "#shared/contract/record.ts";
import { decodeReply, type Reply } from "#shared/contract/reply.ts";
import { resolveDependency } from "#shared/contract/resolve.ts";
import {
  addExecutionToFlow,
  applyDependencyToChild,
  createExecution,
  createFlow,
  type Edge,
  type NewExecution,
  stageDependencyEdge,
} from "#shared/contract/submission.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { PartitionAllocator, TEST_PARTITIONS } from "#test/support/partition-allocator.ts";
import { fieldsOf, run, type StoredValue, snapshot } from "#test/support/valkey.ts";

/** The router of the tests on shared servers. */
export const ROUTER = new PartitionRouter({
  numFlowPartitions: TEST_PARTITIONS,
  numBudgetPartitions: 32,
  numQuotaPartitions: 32,
});

const allocator = new PartitionAllocator(inject("partitionClaims"));

/** A new flow id. With `ROUTER`, no other flow of the test run has its partition. */
export function newFlowId(): FlowId {
  return allocator.newFlowId();
}

/** A lane whose executions without a flow are in a partition that no other test uses. */
export function newSoloLane(): LaneId {
  const partition = ROUTER.flowPartition(newFlowId());
  for (let number = 0; ; number += 1) {
    const lane = unwrap(parseLaneId(`solo ${number}`));
    if (ROUTER.soloPartition(lane) === partition) return lane;
  }
}

export const WORKER: WorkerIdentity = { workerId: "worker", instanceId: "worker-1" };
export const LANE: LaneId = unwrap(parseLaneId("default"));

export function attempt(index: number): AttemptIndex {
  return unwrap(parseAttemptIndex(String(index)));
}

/** One field of a hash; undefined if it is missing. */
export function field(hash: Readonly<Record<string, string>>, name: string): string | undefined {
  return hash[name];
}

/** Fields of a record that an execution without an owner, an attempt, a delay or an end lacks. */
const OPTIONAL_FIELDS = [
  ...["blocking_detail", "current_attempt_index", "current_attempt_id", "started_at", "completed_at"],
  ...["current_lease_id", "current_worker_id", "current_worker_instance_id", "lease_acquired_at"],
  ...["lease_expires_at", "lease_last_renewed_at", "lease_renewal_deadline", "delay_until", "flow_id"],
  "required_capabilities",
];

function emptyFields(fields: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(OPTIONAL_FIELDS.filter((name) => !(name in fields)).map((name) => [name, ""]));
}

export class FlowFixture {
  readonly valkey: Valkey;
  readonly flow: FlowKeys;
  readonly index: IndexKeys;
  readonly lane: LaneId;
  /** The edition of the library that the server has. */
  readonly edition: Edition;

  constructor(
    valkey: Valkey,
    lane: LaneId = LANE,
    router: PartitionRouter = ROUTER,
    edition: Edition = 11,
    flowId: FlowId = newFlowId(),
  ) {
    this.valkey = valkey;
    this.flow = router.flowKeys(flowId);
    this.index = router.indexKeys(this.flow.partition);
    this.lane = lane;
    this.edition = edition;
  }

  /** Calls a library function and decodes its reply. Throws the errors of the server. */
  async call({ name, args }: ValkeyCommand): Promise<Reply> {
    const decoded = decodeReply(await this.read(name, ...args));
    if (!decoded.ok) throw decoded.error;
    return decoded.value;
  }

  /** As `call`, but throws on a refusal too. Returns the fields after the status. */
  async done(command: ValkeyCommand): Promise<readonly string[]> {
    const reply = await this.call(command);
    if (reply.kind === "refused") throw new Error(`refused: ${[reply.code, ...reply.detail].join(", ")}`);
    return reply.fields;
  }

  /** Runs any command on the keys of this partition. */
  read(name: string, ...args: ValkeyArgument[]): Promise<unknown> {
    return run(this.valkey, this.flow.partition, name, ...args);
  }

  /**
   * The fields of a hash; empty if there is no hash. In the record of an execution, a missing field and an empty one mean
   * the same (contract, section 4): those that the library does not store read as empty.
   */
  async hash(key: string): Promise<Record<string, string>> {
    const fields = fieldsOf(await this.read("hgetall", key));
    const isRecord = key.startsWith("ff:exec:") && key.endsWith(":core") && Object.keys(fields).length > 0;
    return isRecord ? { ...fields, ...emptyFields(fields) } : fields;
  }

  snapshot(): Promise<Record<string, StoredValue>> {
    return snapshot(this.valkey, this.flow.partition);
  }

  /** The keys of an execution that does not exist yet. */
  newExecution(): ExecKeys {
    const id: ExecutionId = unwrap(mintExecutionId(this.flow.partition, randomUUID()));
    return ROUTER.execKeys(id);
  }

  target(keys: ExecKeys): Target {
    return { keys, index: this.index, lane: this.lane };
  }

  creation(overrides: Partial<NewExecution> = {}): NewExecution {
    return {
      keys: this.newExecution(),
      index: this.index,
      namespace: "tests",
      lane: this.lane,
      kind: "task",
      priority: 0,
      creator: "tests",
      policyJson: "",
      payload: "",
      ...overrides,
    };
  }

  async execution(overrides: Partial<NewExecution> = {}): Promise<ExecKeys> {
    const creation = this.creation(overrides);
    await this.done(createExecution(creation));
    return creation.keys;
  }

  async createFlow(): Promise<void> {
    await this.done(createFlow(this.flow, this.index, "dag", "tests", 0));
  }

  /** Creates an execution and adds it to the flow, which is created first if necessary. */
  async member(overrides: Partial<NewExecution> = {}): Promise<ExecKeys> {
    await this.createFlow();
    const keys = await this.execution(overrides);
    await this.done(addExecutionToFlow(this.flow, this.index, keys, 0));
    return keys;
  }

  newEdge(upstream: ExecKeys, downstream: ExecKeys, dataPassingRef = ""): Edge {
    const id = unwrap(parseEdgeId(randomUUID()));
    return { id, upstream: upstream.id, downstream: downstream.id, dataPassingRef };
  }

  /** Stages an edge at the current revision of the flow. */
  async stage(edge: Edge, nowMs = Date.now()): Promise<number> {
    const revision = Number(await this.read("hget", this.flow.core, "graph_revision"));
    const [, next] = await this.done(stageDependencyEdge(this.flow, edge, revision, nowMs));
    return Number(next);
  }

  apply(edge: Edge, child: ExecKeys, revision: number, nowMs = Date.now()): ValkeyCommand {
    return applyDependencyToChild(this.flow, child, this.index, this.lane, edge, revision, nowMs);
  }

  /** Stages an edge and applies it to its child. */
  async edge(upstream: ExecKeys, child: ExecKeys, dataPassingRef = ""): Promise<Edge> {
    const edge = this.newEdge(upstream, child, dataPassingRef);
    await this.done(this.apply(edge, child, await this.stage(edge)));
    return edge;
  }

  /** Sets the edge group policy of a child, before its edges are applied. 14-KEYS edition only. */
  async group(child: ExecKeys, policy: EdgeGroupPolicy, nowMs = Date.now()): Promise<void> {
    await this.done(setEdgeGroupPolicy(this.flow, child.id, policy, nowMs));
  }

  resolution(
    edge: Edge,
    outcome: TerminalOutcome,
    nowMs = Date.now(),
    childAttempt = attempt(0),
    completedAt = "",
  ): ValkeyCommand {
    const child = ROUTER.execKeys(edge.downstream);
    return resolveDependency(
      {
        edge: edge.id,
        upstream: edge.upstream,
        flow: this.flow,
        flowIndex: this.index,
        child,
        lane: this.index.lane(this.lane),
        attempt: childAttempt,
      },
      { outcome, completedAt },
      nowMs,
    );
  }

  async claim(keys: ExecKeys, leaseTtlMs = 60_000, worker: WorkerIdentity = WORKER): Promise<Lease> {
    await this.done(issueClaimGrant(this.target(keys), worker, 60_000));
    const terms = { leaseId: randomUUID(), attemptId: randomUUID(), leaseTtlMs, renewBeforeMs: 1_000 };
    const claimed = await this.done(claimExecution(this.target(keys), worker, terms));
    const [leaseId = "", epoch = "", , attemptId = "", index = ""] = claimed;
    return { leaseId, epoch, attemptId, attemptIndex: unwrap(parseAttemptIndex(index)) };
  }

  async complete(keys: ExecKeys, lease: Lease, result: ValkeyArgument = ""): Promise<void> {
    await this.done(completeExecution(this.target(keys), WORKER, lease, result));
  }

  async fail(keys: ExecKeys, lease: Lease, retryPolicyJson = ""): Promise<readonly string[]> {
    const failure = { reason: "it broke", category: "test", retryPolicyJson };
    return this.done(failExecution(this.target(keys), WORKER, lease, failure));
  }

  async cancel(keys: ExecKeys, source = "operator", index = attempt(0)): Promise<readonly string[]> {
    const cancellation = { reason: "not wanted", source };
    return this.done(cancelExecution(this.target(keys), WORKER, index, cancellation));
  }

  /** Claims an eligible execution, and completes or fails it. */
  async finish(keys: ExecKeys, outcome: "success" | "failed", result: ValkeyArgument = ""): Promise<void> {
    const lease = await this.claim(keys);
    if (outcome === "success") await this.complete(keys, lease, result);
    else await this.fail(keys, lease);
  }
}

/** Key names of the wire contract (section 3). Every key of a partition shares its hash tag `{fp:N}`. */

import {
  type AttemptIndex,
  type EdgeId,
  type ExecutionId,
  type FlowId,
  type LaneId,
  type Partition,
  partitionOf,
} from "#shared/contract/ids.ts";

/** The recorded partition counts. Not bound to a partition. */
export const PARTITION_CONFIG_KEY = "ff:config:partitions";
/** Sluice's own key: the library edition that was last loaded or detected. Not bound to a partition. */
export const EDITION_KEY = "ff:config:library_edition";
/** Sluice's own key: the audit trail of operators' changes, a stream. Not bound to a partition. */
export const AUDIT_KEY = "ff:audit";
/** The lanes in use, if the deployment maintains them. Not bound to a partition. */
export const LANES_KEY = "ff:idx:lanes";
/**
 * A partition number in whose cluster slot `LANES_KEY` lies. It routes commands on that key, and says nothing else about
 * it: commands are routed by partition.
 */
export const LANES_PARTITION = 6188 as Partition;
/** The partition under whose tag `PAUSED_LANES_KEY` lies: every deployment has it. */
export const PAUSED_LANES_PARTITION = 0 as Partition;
/** Sluice's own key: the lanes that an operator has paused, a hash. It concerns all partitions. */
export const PAUSED_LANES_KEY = "ff:idx:{fp:0}:paused_lanes";
/** The pub/sub channel of completion events. */
export const COMPLETIONS_CHANNEL = "ff:dag:completions";

/** Retention of the completions queue and of its dead-letter queue. */
const COMPLETIONS_RETENTION_DAYS = 4;
const DEAD_LETTER_RETENTION_DAYS = 14;
const SECONDS_A_DAY = 86_400;

/**
 * How long a mark (`ExecKeys.cascade`) is kept, in seconds: a day longer than the retention of a message and its dead letter
 * together. A replayed dead letter has a new retention, so it can outlive the mark. Its skipped children are then published
 * once more, which changes nothing: the edges of their children reply `already_resolved`.
 */
export const CASCADE_MARK_TTL_SECONDS =
  (COMPLETIONS_RETENTION_DAYS + DEAD_LETTER_RETENTION_DAYS + 1) * SECONDS_A_DAY;

function tagOf(partition: Partition): string {
  return `{fp:${partition}}`;
}

/** Fills an unused KEYS position, so that all keys of a call share one slot. Never read or written. */
export function noopKey(partition: Partition): string {
  return `ff:noop:${tagOf(partition)}`;
}

/** Sluice's own key: a write to it precedes a `WAIT`. Its value has no meaning, and it expires. */
export function replicationKey(partition: Partition): string {
  return `ff:replication:${tagOf(partition)}`;
}

/**
 * Sluice's own key: which executions of a flow were announced to workers (`shared/ready/marks.ts`). It expires. Without a flow:
 * those of the executions in no flow.
 */
export function readyMarksKey(partition: Partition, flow: FlowId | undefined): string {
  return `ff:ready:${tagOf(partition)}:${flow ?? "solo"}`;
}

/** Sluice's own key: when the reconciler last sent the ready message of this execution again, and how often. It expires. */
export function readyResentKey(execution: ExecutionId, flow: FlowId | undefined): string {
  const uuid = execution.slice(execution.indexOf("}:") + 2);
  return `${readyMarksKey(partitionOf(execution), flow)}:${uuid}`;
}

/** The key under which `ff_create_execution` stores the execution id for an application's idempotency key. */
export function idempotencyKey(partition: Partition, namespace: string, key: string): string {
  return `ff:idem:${tagOf(partition)}:${namespace}:${key}`;
}

/**
 * The keys of one execution.
 *
 * @example
 * router.execKeys(executionId).result; // "ff:exec:{fp:42}:{fp:42}:550e8400-…:result"
 */
export class ExecKeys {
  readonly partition: Partition;
  readonly id: ExecutionId;
  readonly #exec: string;

  constructor(id: ExecutionId) {
    this.partition = partitionOf(id);
    this.id = id;
    this.#exec = `ff:exec:${tagOf(this.partition)}:${id}`;
  }

  get core(): string {
    return `${this.#exec}:core`;
  }
  get payload(): string {
    return `${this.#exec}:payload`;
  }
  get result(): string {
    return `${this.#exec}:result`;
  }
  /**
   * The result of an upstream of this execution, under this execution's tag: all keys of a call share one slot
   * (contract, section 6, `ff_resolve_dependency`).
   */
  resultOf(upstream: ExecutionId): string {
    return `ff:exec:${tagOf(this.partition)}:${upstream}:result`;
  }
  get policy(): string {
    return `${this.#exec}:policy`;
  }
  get tags(): string {
    return `${this.#exec}:tags`;
  }
  get depsMeta(): string {
    return `${this.#exec}:deps:meta`;
  }
  get depsUnresolved(): string {
    return `${this.#exec}:deps:unresolved`;
  }
  get depsAllEdges(): string {
    return `${this.#exec}:deps:all_edges`;
  }
  dep(edge: EdgeId): string {
    return `${this.#exec}:dep:${edge}`;
  }
  get leaseCurrent(): string {
    return `${this.#exec}:lease:current`;
  }
  get leaseHistory(): string {
    return `${this.#exec}:lease:history`;
  }
  get suspensionCurrent(): string {
    return `${this.#exec}:suspension:current`;
  }
  get claimGrant(): string {
    return `${this.#exec}:claim_grant`;
  }
  get attempts(): string {
    return `${this.#exec}:attempts`;
  }
  attempt(index: AttemptIndex): string {
    return `ff:attempt:${tagOf(this.partition)}:${this.id}:${index}`;
  }
  attemptUsage(index: AttemptIndex): string {
    return `${this.attempt(index)}:usage`;
  }
  attemptPolicy(index: AttemptIndex): string {
    return `${this.attempt(index)}:policy`;
  }
  streamMeta(index: AttemptIndex): string {
    return `ff:stream:${tagOf(this.partition)}:${this.id}:${index}:meta`;
  }
  /**
   * Sluice's own key, the mark: the `completed_at` of the skip, or of the cancellation as a sibling, whose completion the
   * queue has accepted. It is not a field of the record, since writing the field would recreate a record that was trimmed.
   */
  get cascade(): string {
    return `${this.#exec}:cascade`;
  }
  /** Sluice's own key: a lock of a delivery that publishes a cascade which an earlier one left unpublished. It expires. */
  get cascadeClaim(): string {
    return `${this.#exec}:cascade:claim`;
  }
  /** Sluice's own key: a completion of this execution reached the depth limit of its cascade. It expires. */
  get depthLimit(): string {
    return `${this.#exec}:depth_limit`;
  }
  /** Sluice's own key: when the reconciler last sent the completion of this execution, and how often, for one flow. */
  resent(flow: FlowId): string {
    return `${this.#exec}:resent:${flow}`;
  }
  /** Sluice's own key: checkpoints of a fan-out that takes several deliveries. */
  get fanOut(): string {
    return `${this.#exec}:fan_out`;
  }
}

/** The indexes of one lane: zsets of execution ids. */
export interface LaneKeys {
  readonly eligible: string;
  readonly delayed: string;
  readonly active: string;
  readonly terminal: string;
  readonly suspended: string;
  readonly blockedDependencies: string;
  readonly blockedBudget: string;
  readonly blockedQuota: string;
  readonly blockedRoute: string;
  readonly blockedOperator: string;
}

/**
 * The indexes of one partition.
 *
 * @example
 * router.indexKeys(partition).lane(lane).eligible; // "ff:idx:{fp:42}:lane:images:eligible"
 */
export class IndexKeys {
  readonly partition: Partition;
  readonly #idx: string;
  readonly #lanes = new Map<LaneId, LaneKeys>();

  constructor(partition: Partition) {
    this.partition = partition;
    this.#idx = `ff:idx:${tagOf(partition)}`;
  }

  /** The indexes of another partition. */
  under(partition: Partition): IndexKeys {
    return partition === this.partition ? this : new IndexKeys(partition);
  }

  lane(lane: LaneId): LaneKeys {
    let keys = this.#lanes.get(lane);
    if (keys === undefined) {
      const prefix = `${this.#idx}:lane:${lane}`;
      keys = {
        eligible: `${prefix}:eligible`,
        delayed: `${prefix}:delayed`,
        active: `${prefix}:active`,
        terminal: `${prefix}:terminal`,
        suspended: `${prefix}:suspended`,
        blockedDependencies: `${prefix}:blocked:dependencies`,
        blockedBudget: `${prefix}:blocked:budget`,
        blockedQuota: `${prefix}:blocked:quota`,
        blockedRoute: `${prefix}:blocked:route`,
        blockedOperator: `${prefix}:blocked:operator`,
      };
      this.#lanes.set(lane, keys);
    }
    return keys;
  }

  get leaseExpiry(): string {
    return `${this.#idx}:lease_expiry`;
  }
  get attemptTimeout(): string {
    return `${this.#idx}:attempt_timeout`;
  }
  get executionDeadline(): string {
    return `${this.#idx}:execution_deadline`;
  }
  get suspensionTimeout(): string {
    return `${this.#idx}:suspension_timeout`;
  }
  workerLeases(instance: string): string {
    return `${this.#idx}:worker:${instance}:leases`;
  }
  get allExecutions(): string {
    return `${this.#idx}:all_executions`;
  }
  get flowIndex(): string {
    return `${this.#idx}:flow_index`;
  }
  /** Flows by the time of their creation. Sluice's own, not part of the contract. */
  get flowsCreated(): string {
    return `${this.#idx}:flows_created`;
  }
  /** Flows with members still to cancel (contract, section 13). */
  get cancelBacklog(): string {
    return `${this.#idx}:cancel_backlog`;
  }
  /** 14-KEYS edition only. */
  get pendingCancelGroups(): string {
    return `${this.#idx}:pending_cancel_groups`;
  }
  /** Lanes, by the time when an execution of each was last claimed. Sluice's own, not part of the contract. */
  get laneClaims(): string {
    return `${this.#idx}:lane_claims`;
  }
  /** Flows whose members have all ended, by the time when the last one did. Sluice's own, not part of the contract. */
  get flowsEnded(): string {
    return `${this.#idx}:flows_ended`;
  }
  /** Ends of flows that no message has reported yet, by their times. Sluice's own, not part of the contract. */
  get flowEndsUnsent(): string {
    return `${this.#idx}:flow_ends_unsent`;
  }
}

/**
 * The keys of one flow.
 *
 * @example
 * router.flowKeys(flowId).members; // "ff:flow:{fp:42}:0f8c5f6e-…:members"
 */
export class FlowKeys {
  readonly partition: Partition;
  readonly id: FlowId;
  readonly #flow: string;

  constructor(partition: Partition, id: FlowId) {
    this.partition = partition;
    this.id = id;
    this.#flow = `ff:flow:${tagOf(partition)}:${id}`;
  }

  /** The keys of the same flow under another partition's tag. */
  under(partition: Partition): FlowKeys {
    return partition === this.partition ? this : new FlowKeys(partition, this.id);
  }

  get core(): string {
    return `${this.#flow}:core`;
  }
  get members(): string {
    return `${this.#flow}:members`;
  }
  edge(edge: EdgeId): string {
    return `${this.#flow}:edge:${edge}`;
  }
  outgoing(upstream: ExecutionId): string {
    return `${this.#flow}:out:${upstream}`;
  }
  incoming(downstream: ExecutionId): string {
    return `${this.#flow}:in:${downstream}`;
  }
  /** Members still to cancel (contract, section 13). */
  get pendingCancels(): string {
    return `${this.#flow}:pending_cancels`;
  }
  /** Labels; from 15. */
  get tags(): string {
    return `${this.#flow}:tags`;
  }
  grant(mutation: string): string {
    return `${this.#flow}:grant:${mutation}`;
  }
  /** The flow's progress (contract, section 14). */
  get summary(): string {
    return `${this.#flow}:summary`;
  }
  /** Exists once the flow is being purged, and for 19 days after. Sluice's own, not part of the contract. */
  get purged(): string {
    return `${this.#flow}:purged`;
  }
  /** 14-KEYS edition only. */
  edgeGroup(child: ExecutionId): string {
    return `${this.#flow}:edgegroup:${child}`;
  }
  /** Sluice's own key: a lock of the process that cancels the siblings of a decided group. It expires. */
  cancelClaim(child: ExecutionId): string {
    return `${this.edgeGroup(child)}:cancel_claim`;
  }
}

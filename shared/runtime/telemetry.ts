/**
 * Metrics and log fields. Alarms and dashboards refer to the names, namespace, dimensions and units of the metrics. The
 * log fields let one query show all lines of one cascade.
 */

import type { ExecutionId, FlowId } from "#shared/contract/ids.ts";

/** The namespace of every metric. */
export const NAMESPACE = "Sluice";
/** The dimensions of every metric. Their values are the name of the function and the stage of its deployment. */
export const DIMENSION = "service";
export const STAGE_DIMENSION = "stage";

/** All metrics. They are counts, except those in `GAUGE_UNITS`. */
export const METRICS = {
  /** Completions whose children were all updated. */
  completionsDispatched: "CompletionsDispatched",
  /** Messages that failed and stay in the queue for a retry. */
  messagesFailed: "MessagesFailed",
  /** Messages that are not completion events. */
  messagesMalformed: "MessagesMalformed",
  /** Messages sent to the dead-letter queue, since a retry cannot succeed. */
  messagesDeadLettered: "MessagesDeadLettered",
  /** Edge groups with more resolved edges than applied ones (contract, section 7): a sign of corrupt data. */
  invariantViolations: "InvariantViolations",
  /** Messages with a depth above `MAX_CASCADE_DEPTH`: their cascade restarts at depth 0, or stops after 20 restarts. */
  depthLimitReached: "DepthLimitReached",
  /** Completions whose record is not terminal, for example after a replay: they resolve no edges. */
  recordNotTerminal: "RecordNotTerminal",
  /** Completions of flows that were deleted after their retention, or are being deleted: they resolve no edges. */
  flowPurged: "FlowPurged",
  /** Edges skipped because an id does not parse. */
  edgesUnreadable: "EdgesUnreadable",
  edgesSatisfied: "EdgesSatisfied",
  edgesImpossible: "EdgesImpossible",
  edgesAlreadyResolved: "EdgesAlreadyResolved",
  /** 14-KEYS edition: edges counted in a group that is undecided or was decided earlier. */
  edgesCountedInGroup: "EdgesCountedInGroup",
  childrenSkipped: "ChildrenSkipped",
  /** Executions that became eligible or reclaimable, and whose ready message their lane's queue accepted. */
  readyAnnounced: "ReadyAnnounced",
  /** Skipped children whose completion the queue accepted. */
  cascadesPublished: "CascadesPublished",
  /** Executions cancelled because a group that they belong to was decided without them. */
  siblingsCancelled: "SiblingsCancelled",
  /** Decided groups whose siblings dispatch could not all cancel: the reconciler continues. */
  groupsLeft: "CancelGroupsLeft",
  /** Batches whose published cascades could not be marked: redeliveries may publish them again. */
  marksFailed: "MarksFailed",
  /** The highest depth in an invocation, up to `MAX_CASCADE_DEPTH`: the levels of skipped executions above the completed one. */
  cascadeDepth: "CascadeDepth",
  /** The slowest round trip of an invocation to Valkey, from sending a pipeline to its last reply. */
  valkeyLatency: "ValkeyLatency",
  /** Blocked executions that the reconciler checked. */
  executionsScanned: "ExecutionsScanned",
  /** Completions that the reconciler sent again because children still wait for them. 0 in normal operation. */
  completionsRepaired: "CompletionsRepaired",
  /** Completions that the reconciler would send, but does not yet: the queue holds many messages. */
  completionsDeferred: "CompletionsDeferred",
  /** Blocked executions without unresolved dependencies that the reconciler made eligible. */
  executionsPromoted: "ExecutionsPromoted",
  /** Promotions refused by Valkey: the execution has changed since it was read, or its counts are wrong. */
  promotionsRefused: "PromotionsRefused",
  /** Ended flows deleted after their retention. */
  flowsPurged: "FlowsPurged",
  /** Ended executions deleted after their retention, members of flows among them. */
  executionsPurged: "ExecutionsPurged",
  /** Ended flows that are kept. */
  flowsRetained: "FlowsRetained",
  /** Messages about flows that ended, accepted by `FLOW_EVENTS_QUEUE_URL`. */
  flowEndsSent: "FlowEndsSent",
  /** Malformed lanes, index entries, edges and records, which the reconciler skips. */
  recordsUnreadable: "RecordsUnreadable",
  /** Indexes of blocked executions that a sweep could not read completely. */
  indexesUnread: "IndexesUnread",
  /** How long ago the blocked execution that waits longest could have been released or skipped. */
  oldestResolvableAge: "OldestResolvableAge",
  /** Leases that ran out and that the reconciler marked, so that another worker can reclaim the execution. */
  leasesExpired: "LeasesExpired",
  /** Executions that failed because they were reclaimed too often. */
  reclaimLimitReached: "ReclaimLimitReached",
  /** Executions that the reconciler ended because an attempt ran too long or a deadline passed. */
  executionsExpired: "ExecutionsExpired",
  /** Delayed executions that the reconciler made eligible: retries, and those with a start time. */
  delaysPromoted: "DelaysPromoted",
  /** Ready messages that the reconciler sent again: their executions stayed unclaimed. */
  readyResent: "ReadyResent",
  /** Ready messages that the reconciler would send again, but does not yet: the lane's queue holds many messages. */
  readyDeferred: "ReadyDeferred",
  /** Members of cancelled flows that the reconciler cancelled. */
  membersCancelled: "MembersCancelled",
  /** Completions of executions that the reconciler ended itself. */
  completionsSent: "CompletionsSent",
  /** By how much the latest promotion of a delayed execution was late. */
  oldestDueDelay: "OldestDueDelay",
  /** The time from the start of a sweep to its end, over all of its invocations. */
  sweepDuration: "SweepDuration",
  /** Operations that `sluice --stage` ran, dry runs included. */
  operationsRun: "OperationsRun",
  /** Executions, flows, lanes and messages that an operator changed. */
  changesMade: "ChangesMade",
  /** Changes of operators that failed. */
  changesFailed: "ChangesFailed",
} as const;

/**
 * The metrics of workers. They also have the dimensions `lane` and `kind`. Counts, except `TaskQueueWait` and `TaskRunTime`,
 * which are in milliseconds.
 */
export const TASK_METRICS = {
  completed: "TasksCompleted",
  /** Runs that failed, whether they are retried or not. */
  failed: "TasksFailed",
  /** Runs whose worker lost the lease. Their outcome was not reported. */
  leaseLost: "TaskLeasesLost",
  /** Runs of executions that another worker had lost. */
  reclaims: "TaskReclaims",
  /** The number of the attempt; use the maximum. */
  attempts: "TaskAttempts",
  /** Messages of executions whose kind the worker has no task for. */
  unknownKinds: "TaskKindsUnknown",
  /** From the time when the ready message was sent until the claim. */
  queueWait: "TaskQueueWait",
  runTime: "TaskRunTime",
} as const;

/** The units of metrics that are measured and not counted. */
const GAUGE_UNITS = {
  [METRICS.cascadeDepth]: "Count",
  [METRICS.flowsRetained]: "Count",
  [METRICS.valkeyLatency]: "Milliseconds",
  [METRICS.oldestResolvableAge]: "Seconds",
  [METRICS.oldestDueDelay]: "Seconds",
  [METRICS.sweepDuration]: "Milliseconds",
} as const;

export type GaugeName = keyof typeof GAUGE_UNITS;

export type MetricName = (typeof METRICS)[keyof typeof METRICS];

/** The metrics of each function that emits metrics. */
export const METRICS_BY_FUNCTION = {
  dispatch: [
    METRICS.completionsDispatched,
    METRICS.messagesFailed,
    METRICS.messagesMalformed,
    METRICS.messagesDeadLettered,
    METRICS.invariantViolations,
    METRICS.depthLimitReached,
    METRICS.recordNotTerminal,
    METRICS.flowPurged,
    METRICS.edgesUnreadable,
    METRICS.edgesSatisfied,
    METRICS.edgesImpossible,
    METRICS.edgesAlreadyResolved,
    METRICS.edgesCountedInGroup,
    METRICS.childrenSkipped,
    METRICS.readyAnnounced,
    METRICS.cascadesPublished,
    METRICS.siblingsCancelled,
    METRICS.groupsLeft,
    METRICS.marksFailed,
    METRICS.cascadeDepth,
    METRICS.valkeyLatency,
  ],
  reconcile: [
    METRICS.executionsScanned,
    METRICS.completionsRepaired,
    METRICS.completionsDeferred,
    METRICS.executionsPromoted,
    METRICS.promotionsRefused,
    METRICS.flowsPurged,
    METRICS.executionsPurged,
    METRICS.flowsRetained,
    METRICS.flowEndsSent,
    METRICS.recordsUnreadable,
    METRICS.indexesUnread,
    METRICS.leasesExpired,
    METRICS.reclaimLimitReached,
    METRICS.executionsExpired,
    METRICS.delaysPromoted,
    METRICS.readyAnnounced,
    METRICS.readyResent,
    METRICS.readyDeferred,
    METRICS.membersCancelled,
    METRICS.siblingsCancelled,
    METRICS.completionsSent,
    METRICS.oldestDueDelay,
    METRICS.oldestResolvableAge,
    METRICS.sweepDuration,
    METRICS.valkeyLatency,
  ],
  "operate-read": [METRICS.operationsRun],
  "operate-write": [METRICS.operationsRun, METRICS.changesMade, METRICS.changesFailed],
} as const satisfies Readonly<Record<string, readonly MetricName[]>>;

/** Returns the unit of a metric. */
export function unitOf(metric: MetricName): "Count" | "Seconds" | "Milliseconds" {
  const units: Partial<Record<MetricName, "Count" | "Seconds" | "Milliseconds">> = GAUGE_UNITS;
  return units[metric] ?? "Count";
}

export type LogFields = Readonly<Record<string, string | number | boolean | readonly string[]>>;

/** Writes log lines. */
export interface Log {
  info(message: string, fields: LogFields): void;
  warn(message: string, fields: LogFields): void;
  error(message: string, fields: LogFields): void;
}

/** Writes log lines and counts. */
export interface Telemetry extends Log {
  count(metric: MetricName, value?: number): void;
}

/** Writes log lines, counts and measurements. */
export interface GaugingTelemetry extends Telemetry {
  /** `value` is in the metric's unit, as given in `GAUGE_UNITS`. */
  measure(metric: GaugeName, value: number): void;
}

/** The part of a completion that identifies it in the log. */
interface TracedCompletion {
  readonly executionId: ExecutionId;
  readonly flowId: FlowId | undefined;
  readonly root: ExecutionId;
  readonly depth: number;
  readonly generation: number;
  readonly traceparent: string | undefined;
}

/** Returns the log fields of a completion. All lines of one cascade have the same `root`. */
export function traceFields({
  executionId,
  flowId,
  root,
  depth,
  generation,
  traceparent,
}: TracedCompletion): LogFields {
  return {
    execution_id: executionId,
    flow_id: flowId ?? "",
    root,
    depth,
    ...(generation === 0 ? {} : { generation }),
    ...(traceparent === undefined ? {} : { traceparent }),
  };
}

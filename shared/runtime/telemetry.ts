/**
 * What Sluice tells its operators: every metric with its namespace, dimension and unit, since alarms and dashboards name
 * them, and the fields by which one query of the logs shows one cascade.
 */

import type { ExecutionId, FlowId } from "#shared/contract/ids.ts";

/** The namespace of every metric. */
export const NAMESPACE = "Sluice";
/** The one dimension of every metric; its value is the function's name. */
export const DIMENSION = "service";

/** Every metric. Counts, but for those in `GAUGE_UNITS`. */
export const METRICS = {
  /** Completions whose children were all dealt with. */
  completionsDispatched: "CompletionsDispatched",
  /** Messages handed back to the queue. */
  messagesFailed: "MessagesFailed",
  /** Messages that are not completion events. */
  messagesMalformed: "MessagesMalformed",
  /** Messages sent to the dead-letter queue because no retry could help them. */
  messagesDeadLettered: "MessagesDeadLettered",
  /** Groups of edges with more outcomes than edges (contract, section 7): something resolved what it should not. */
  invariantViolations: "InvariantViolations",
  /** Completions that arrived above `MAX_CASCADE_DEPTH`. */
  depthLimitReached: "DepthLimitReached",
  /** Completions whose record has not ended, or not any more: nothing is resolved on their behalf. */
  recordNotTerminal: "RecordNotTerminal",
  /** Edges left alone because an id does not parse. */
  edgesUnreadable: "EdgesUnreadable",
  edgesSatisfied: "EdgesSatisfied",
  edgesImpossible: "EdgesImpossible",
  edgesAlreadyResolved: "EdgesAlreadyResolved",
  /** 14-KEYS edition: edges counted in a group that is undecided, or was decided before. */
  edgesCountedInGroup: "EdgesCountedInGroup",
  childrenSkipped: "ChildrenSkipped",
  /** Skipped children whose completion the queue accepted. */
  cascadesPublished: "CascadesPublished",
  /** Batches whose published cascades could not be marked: redeliveries may publish them once more. */
  marksFailed: "MarksFailed",
  /** The greatest depth among the messages of an invocation: levels of skipped executions above the completed one. */
  cascadeDepth: "CascadeDepth",
  /** The slowest round trip of an invocation to Valkey: a pipeline from its sending to its last reply. */
  valkeyLatency: "ValkeyLatency",
  /** Blocked executions that the reconciler looked at. */
  executionsScanned: "ExecutionsScanned",
  /** Completions that the reconciler sent because children still wait for them. In health: 0. */
  completionsRepaired: "CompletionsRepaired",
  /** Blocked executions with nothing left to wait for that the reconciler made eligible. */
  executionsPromoted: "ExecutionsPromoted",
  /** Promotions that the function refused: the execution has moved on since it was read, or its counts are wrong. */
  promotionsRefused: "PromotionsRefused",
  /** Lanes, index entries, edges and records of which the reconciler can make no sense, and which it leaves alone. */
  recordsUnreadable: "RecordsUnreadable",
  /** Indexes of blocked executions that could not be read to their end in a sweep. */
  indexesUnread: "IndexesUnread",
  /** How long the blocked execution that could have been released first has been waiting since. */
  oldestResolvableAge: "OldestResolvableAge",
  /** From the beginning of a sweep to its end, however many invocations it took. */
  sweepDuration: "SweepDuration",
} as const;

/** The metrics that are measured and not counted: each emitted value stands for itself. */
const GAUGE_UNITS = {
  [METRICS.cascadeDepth]: "Count",
  [METRICS.valkeyLatency]: "Milliseconds",
  [METRICS.oldestResolvableAge]: "Seconds",
  [METRICS.sweepDuration]: "Milliseconds",
} as const;

export type GaugeName = keyof typeof GAUGE_UNITS;

export type MetricName = (typeof METRICS)[keyof typeof METRICS];

/** The metrics of each function that emits any. */
export const METRICS_BY_FUNCTION = {
  dispatch: [
    METRICS.completionsDispatched,
    METRICS.messagesFailed,
    METRICS.messagesMalformed,
    METRICS.messagesDeadLettered,
    METRICS.invariantViolations,
    METRICS.depthLimitReached,
    METRICS.recordNotTerminal,
    METRICS.edgesUnreadable,
    METRICS.edgesSatisfied,
    METRICS.edgesImpossible,
    METRICS.edgesAlreadyResolved,
    METRICS.edgesCountedInGroup,
    METRICS.childrenSkipped,
    METRICS.cascadesPublished,
    METRICS.marksFailed,
    METRICS.cascadeDepth,
    METRICS.valkeyLatency,
  ],
  reconcile: [
    METRICS.executionsScanned,
    METRICS.completionsRepaired,
    METRICS.executionsPromoted,
    METRICS.promotionsRefused,
    METRICS.recordsUnreadable,
    METRICS.indexesUnread,
    METRICS.oldestResolvableAge,
    METRICS.sweepDuration,
    METRICS.valkeyLatency,
  ],
} as const satisfies Readonly<Record<string, readonly MetricName[]>>;

export function unitOf(metric: MetricName): "Count" | "Seconds" | "Milliseconds" {
  const units: Partial<Record<MetricName, "Count" | "Seconds" | "Milliseconds">> = GAUGE_UNITS;
  return units[metric] ?? "Count";
}

export type LogFields = Readonly<Record<string, string | number | boolean | readonly string[]>>;

/** What an operator is told in the log. */
export interface Log {
  info(message: string, fields: LogFields): void;
  warn(message: string, fields: LogFields): void;
  error(message: string, fields: LogFields): void;
}

/** What domain code tells an operator. */
export interface Telemetry extends Log {
  count(metric: MetricName, value?: number): void;
}

/** For domain code that measures as well as counts. */
export interface GaugingTelemetry extends Telemetry {
  /** `value` is in the metric's unit, as `GAUGE_UNITS` has it. */
  measure(metric: GaugeName, value: number): void;
}

/** A completion, as far as a log line needs to know it. */
interface TracedCompletion {
  readonly executionId: ExecutionId;
  readonly flowId: FlowId | undefined;
  readonly root: ExecutionId;
  readonly depth: number;
  readonly traceparent: string | undefined;
}

/** The fields by which one query shows one cascade: all of its lines have the same `root`. */
export function traceFields({ executionId, flowId, root, depth, traceparent }: TracedCompletion): LogFields {
  return {
    execution_id: executionId,
    flow_id: flowId ?? "",
    root,
    depth,
    ...(traceparent === undefined ? {} : { traceparent }),
  };
}

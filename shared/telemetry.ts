/** Every metric that Sluice emits, in one place: alarms and dashboards name them. Counts, but for `GAUGE_UNITS`. */
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

/** The metrics that are measured and not counted. */
export const GAUGE_UNITS = {
  [METRICS.oldestResolvableAge]: "Seconds",
  [METRICS.sweepDuration]: "Milliseconds",
} as const;

export type GaugeName = keyof typeof GAUGE_UNITS;

export type MetricName = (typeof METRICS)[keyof typeof METRICS];

export type LogFields = Readonly<Record<string, string | number | boolean | readonly string[]>>;

/** What domain code tells an operator. */
export interface Telemetry {
  count(metric: MetricName, value?: number): void;
  info(message: string, fields: LogFields): void;
  warn(message: string, fields: LogFields): void;
  error(message: string, fields: LogFields): void;
}

/** For domain code that measures as well as counts. */
export interface GaugingTelemetry extends Telemetry {
  /** `value` is in the metric's unit, as `GAUGE_UNITS` has it. */
  measure(metric: GaugeName, value: number): void;
}

/** Every metric that Sluice emits, in one place: alarms and dashboards name them. All are counts. */
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
} as const;

export type MetricName = (typeof METRICS)[keyof typeof METRICS];

export type LogFields = Readonly<Record<string, string | number | boolean | readonly string[]>>;

/** What domain code tells an operator. */
export interface Telemetry {
  count(metric: MetricName, value?: number): void;
  info(message: string, fields: LogFields): void;
  warn(message: string, fields: LogFields): void;
  error(message: string, fields: LogFields): void;
}

/** The dashboard: what passes through, how far behind it is, and what went wrong. */

import { METRICS, type METRICS_BY_FUNCTION } from "#shared/runtime/telemetry.ts";

type Emitted = typeof METRICS_BY_FUNCTION;
type Statistic = "Sum" | "Average" | "Maximum" | "p50" | "p99";
/** A metric as a widget names it: namespace, name, dimensions and how it is shown. */
type Line = readonly (string | Readonly<Record<string, string>>)[];

const WIDTH = 8;
const HEIGHT = 6;
const COLUMNS = 3;

/** Only what the function emits. */
function ours<Service extends keyof Emitted>(
  service: Service,
  metric: Emitted[Service][number],
  stat: Statistic,
  label: string = metric,
): Line {
  return ["Sluice", metric, "service", service, { stat, label }];
}

/** `resource` is the function's logical id. */
function lambda(resource: string, metric: string, stat: Statistic, label: string): Line {
  return ["AWS/Lambda", metric, "FunctionName", `\${${resource}}`, { stat, label }];
}

/** `resource` is the queue's logical id. */
function queue(resource: string, metric: string, stat: Statistic, label: string): Line {
  return ["AWS/SQS", metric, "QueueName", `\${${resource}.QueueName}`, { stat, label }];
}

const WIDGETS: readonly { readonly title: string; readonly lines: readonly Line[] }[] = [
  {
    title: "Throughput (a minute)",
    lines: [
      ours("dispatch", METRICS.completionsDispatched, "Sum"),
      queue("CompletionsQueue", "NumberOfMessagesSent", "Sum", "messages sent"),
      queue("CompletionsQueue", "NumberOfMessagesDeleted", "Sum", "messages done"),
    ],
  },
  {
    title: "Edges resolved (a minute)",
    lines: [
      ours("dispatch", METRICS.edgesSatisfied, "Sum"),
      ours("dispatch", METRICS.edgesImpossible, "Sum"),
      ours("dispatch", METRICS.edgesAlreadyResolved, "Sum"),
      ours("dispatch", METRICS.edgesCountedInGroup, "Sum"),
    ],
  },
  {
    title: "Skipped (a minute)",
    lines: [
      ours("dispatch", METRICS.childrenSkipped, "Sum"),
      ours("dispatch", METRICS.cascadesPublished, "Sum"),
    ],
  },
  {
    title: "Cascade depth",
    lines: [
      ours("dispatch", METRICS.cascadeDepth, "Maximum"),
      ours("dispatch", METRICS.depthLimitReached, "Sum"),
    ],
  },
  {
    title: "Ages (s)",
    lines: [
      queue("CompletionsQueue", "ApproximateAgeOfOldestMessage", "Maximum", "oldest completion"),
      queue("DeadLetterQueue", "ApproximateAgeOfOldestMessage", "Maximum", "oldest dead letter"),
      ours("reconcile", METRICS.oldestResolvableAge, "Maximum"),
    ],
  },
  {
    title: "Waiting",
    lines: [
      queue("CompletionsQueue", "ApproximateNumberOfMessagesVisible", "Maximum", "completions"),
      queue("CompletionsQueue", "ApproximateNumberOfMessagesNotVisible", "Maximum", "in dispatch"),
      queue("DeadLetterQueue", "ApproximateNumberOfMessagesVisible", "Maximum", "dead letters"),
    ],
  },
  {
    title: "Errors (a minute)",
    lines: [
      lambda("DispatchLambdaFunction", "Errors", "Sum", "dispatch"),
      lambda("ReconcileLambdaFunction", "Errors", "Sum", "reconcile"),
      lambda("DispatchLambdaFunction", "Throttles", "Sum", "dispatch, throttled"),
      ours("dispatch", METRICS.messagesFailed, "Sum"),
      ours("dispatch", METRICS.messagesDeadLettered, "Sum"),
      ours("dispatch", METRICS.invariantViolations, "Sum"),
    ],
  },
  {
    title: "Valkey latency (ms, a round trip)",
    lines: [
      ours("dispatch", METRICS.valkeyLatency, "p50", "dispatch, p50"),
      ours("dispatch", METRICS.valkeyLatency, "p99", "dispatch, p99"),
      ours("reconcile", METRICS.valkeyLatency, "p99", "reconcile, p99"),
    ],
  },
  {
    title: "Duration (ms) and concurrency of dispatch",
    lines: [
      lambda("DispatchLambdaFunction", "Duration", "p50", "p50"),
      lambda("DispatchLambdaFunction", "Duration", "p99", "p99"),
      lambda("DispatchLambdaFunction", "ConcurrentExecutions", "Maximum", "concurrent"),
    ],
  },
  {
    title: "Reconciler (a minute)",
    lines: [
      ours("reconcile", METRICS.executionsScanned, "Sum"),
      ours("reconcile", METRICS.completionsRepaired, "Sum"),
      ours("reconcile", METRICS.executionsPromoted, "Sum"),
      ours("reconcile", METRICS.indexesUnread, "Sum"),
      ours("reconcile", METRICS.sweepDuration, "Maximum", "a sweep, ms"),
    ],
  },
];

/** In CloudWatch's "Dashboard Body Structure and Syntax"; `${…}` is for Fn::Sub. */
export const dashboardBody = {
  widgets: WIDGETS.map(({ title, lines }, index) => ({
    type: "metric",
    x: (index % COLUMNS) * WIDTH,
    y: Math.floor(index / COLUMNS) * HEIGHT,
    width: WIDTH,
    height: HEIGHT,
    properties: {
      title,
      metrics: lines,
      // biome-ignore lint/suspicious/noTemplateCurlyInString: it is CloudFormation's.
      region: "${AWS::Region}",
      view: "timeSeries",
      period: 60,
    },
  })),
};

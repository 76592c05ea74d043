/** The CloudWatch dashboard: throughput, backlog and errors. */

import { METRICS, type METRICS_BY_FUNCTION } from "#shared/runtime/telemetry.ts";

type Emitted = typeof METRICS_BY_FUNCTION;
type Statistic = "Sum" | "Average" | "Maximum" | "p50" | "p99";
/** A metric in a widget: namespace, name, dimensions and options. */
type Line = readonly (string | Readonly<Record<string, string>>)[];

const WIDTH = 8;
const HEIGHT = 6;
const COLUMNS = 3;

/** A metric that a Sluice function emits. */
function sluice<Service extends keyof Emitted>(
  service: Service,
  metric: Emitted[Service][number],
  stat: Statistic,
  label: string = metric,
): Line {
  return ["Sluice", metric, "service", service, { stat, label }];
}

/** A metric of AWS Lambda. `resource` is the logical id of the function. */
function lambda(resource: string, metric: string, stat: Statistic, label: string): Line {
  return ["AWS/Lambda", metric, "FunctionName", `\${${resource}}`, { stat, label }];
}

/** A metric of Amazon SQS. `resource` is the logical id of the queue. */
function queue(resource: string, metric: string, stat: Statistic, label: string): Line {
  return ["AWS/SQS", metric, "QueueName", `\${${resource}.QueueName}`, { stat, label }];
}

const WIDGETS: readonly { readonly title: string; readonly lines: readonly Line[] }[] = [
  {
    title: "Throughput (per minute)",
    lines: [
      sluice("dispatch", METRICS.completionsDispatched, "Sum"),
      queue("CompletionsQueue", "NumberOfMessagesSent", "Sum", "messages sent"),
      queue("CompletionsQueue", "NumberOfMessagesDeleted", "Sum", "messages processed"),
    ],
  },
  {
    title: "Edges resolved (per minute)",
    lines: [
      sluice("dispatch", METRICS.edgesSatisfied, "Sum"),
      sluice("dispatch", METRICS.edgesImpossible, "Sum"),
      sluice("dispatch", METRICS.edgesAlreadyResolved, "Sum"),
      sluice("dispatch", METRICS.edgesCountedInGroup, "Sum"),
    ],
  },
  {
    title: "Skipped (per minute)",
    lines: [
      sluice("dispatch", METRICS.childrenSkipped, "Sum"),
      sluice("dispatch", METRICS.cascadesPublished, "Sum"),
    ],
  },
  {
    title: "Cascade depth",
    lines: [
      sluice("dispatch", METRICS.cascadeDepth, "Maximum"),
      sluice("dispatch", METRICS.depthLimitReached, "Sum"),
    ],
  },
  {
    title: "Ages (s)",
    lines: [
      queue("CompletionsQueue", "ApproximateAgeOfOldestMessage", "Maximum", "oldest completion"),
      queue("DeadLetterQueue", "ApproximateAgeOfOldestMessage", "Maximum", "oldest dead letter"),
      sluice("reconcile", METRICS.oldestResolvableAge, "Maximum"),
    ],
  },
  {
    title: "Messages in queues",
    lines: [
      queue("CompletionsQueue", "ApproximateNumberOfMessagesVisible", "Maximum", "completions"),
      queue("CompletionsQueue", "ApproximateNumberOfMessagesNotVisible", "Maximum", "in flight"),
      queue("DeadLetterQueue", "ApproximateNumberOfMessagesVisible", "Maximum", "dead letters"),
    ],
  },
  {
    title: "Errors (per minute)",
    lines: [
      lambda("DispatchLambdaFunction", "Errors", "Sum", "dispatch"),
      lambda("ReconcileLambdaFunction", "Errors", "Sum", "reconcile"),
      lambda("DispatchLambdaFunction", "Throttles", "Sum", "dispatch, throttled"),
      sluice("dispatch", METRICS.messagesFailed, "Sum"),
      sluice("dispatch", METRICS.messagesDeadLettered, "Sum"),
      sluice("dispatch", METRICS.invariantViolations, "Sum"),
    ],
  },
  {
    title: "Valkey latency (ms per round trip)",
    lines: [
      sluice("dispatch", METRICS.valkeyLatency, "p50", "dispatch, p50"),
      sluice("dispatch", METRICS.valkeyLatency, "p99", "dispatch, p99"),
      sluice("reconcile", METRICS.valkeyLatency, "p99", "reconcile, p99"),
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
    title: "Reconciler (per minute)",
    lines: [
      sluice("reconcile", METRICS.executionsScanned, "Sum"),
      sluice("reconcile", METRICS.completionsRepaired, "Sum"),
      sluice("reconcile", METRICS.completionsDeferred, "Sum"),
      sluice("reconcile", METRICS.executionsPromoted, "Sum"),
      sluice("reconcile", METRICS.indexesUnread, "Sum"),
      sluice("reconcile", METRICS.sweepDuration, "Maximum", "duration of a sweep (ms)"),
    ],
  },
];

/** See CloudWatch, "Dashboard Body Structure and Syntax". Fn::Sub replaces `${…}`. */
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
      // biome-ignore lint/suspicious/noTemplateCurlyInString: CloudFormation replaces it.
      region: "${AWS::Region}",
      view: "timeSeries",
      period: 60,
    },
  })),
};

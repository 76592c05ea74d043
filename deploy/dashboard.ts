/** The CloudWatch dashboard: throughput, backlog, errors and Valkey. */

import { DIMENSION, METRICS, NAMESPACE, STAGE_DIMENSION, TASK_METRICS } from "#shared/runtime/telemetry.ts";
import { type Deployment, lambda, type Metric, queue, sluice } from "./metrics.ts";

type Statistic = "Sum" | "Average" | "Maximum" | "p50" | "p99";
/** One line of a widget. */
interface Line {
  readonly metric: Metric;
  readonly stat: Statistic;
  readonly label: string;
}
/** A line, or several that a SEARCH expression finds. */
type Row = Line | { readonly search: string };

const WIDTH = 8;
const HEIGHT = 6;
const COLUMNS = 3;

function line(metric: Metric, stat: Statistic, label: string = metric.name): Line {
  return { metric, stat, label };
}

/** A metric of every node of the stack's replication group, also of those that a resharding adds. */
function valkeyNodes(metric: string, stat: Statistic): Row {
  return {
    search: `SEARCH('{AWS/ElastiCache,CacheClusterId} \${ValkeyReplicationGroup} MetricName="${metric}"', '${stat}', 60)`,
  };
}

interface Widget {
  readonly title: string;
  readonly rows: readonly Row[];
}

function widgets(deployment: Deployment): Widget[] {
  const dispatch = (name: Parameters<typeof sluice<"dispatch">>[2], stat: Statistic, label?: string) =>
    line(sluice(deployment, "dispatch", name), stat, label);
  const reconcile = (name: Parameters<typeof sluice<"reconcile">>[2], stat: Statistic, label?: string) =>
    line(sluice(deployment, "reconcile", name), stat, label);
  return [
    {
      title: "Throughput (per minute)",
      rows: [
        dispatch(METRICS.completionsDispatched, "Sum"),
        line(queue("CompletionsQueue", "NumberOfMessagesSent"), "Sum", "messages sent"),
        line(queue("CompletionsQueue", "NumberOfMessagesDeleted"), "Sum", "messages processed"),
      ],
    },
    {
      title: "Edges resolved (per minute)",
      rows: [
        dispatch(METRICS.edgesSatisfied, "Sum"),
        dispatch(METRICS.edgesImpossible, "Sum"),
        dispatch(METRICS.edgesAlreadyResolved, "Sum"),
        dispatch(METRICS.edgesCountedInGroup, "Sum"),
      ],
    },
    {
      title: "Announced to workers (per minute)",
      rows: [
        dispatch(METRICS.readyAnnounced, "Sum"),
        reconcile(METRICS.readyAnnounced, "Sum"),
        reconcile(METRICS.readyResent, "Sum"),
        reconcile(METRICS.readyDeferred, "Sum"),
      ],
    },
    {
      title: "Skipped and cancelled (per minute)",
      rows: [
        dispatch(METRICS.childrenSkipped, "Sum"),
        dispatch(METRICS.cascadesPublished, "Sum"),
        dispatch(METRICS.siblingsCancelled, "Sum"),
        dispatch(METRICS.groupsLeft, "Sum"),
        reconcile(METRICS.siblingsCancelled, "Sum", "SiblingsCancelled, reconcile"),
        reconcile(METRICS.membersCancelled, "Sum"),
      ],
    },
    {
      title: "Cascade depth",
      rows: [dispatch(METRICS.cascadeDepth, "Maximum"), dispatch(METRICS.depthLimitReached, "Sum")],
    },
    {
      title: "Ages (s)",
      rows: [
        line(queue("CompletionsQueue", "ApproximateAgeOfOldestMessage"), "Maximum", "oldest completion"),
        line(queue("DeadLetterQueue", "ApproximateAgeOfOldestMessage"), "Maximum", "oldest dead letter"),
        reconcile(METRICS.oldestResolvableAge, "Maximum"),
      ],
    },
    {
      title: "Messages in queues",
      rows: [
        line(queue("CompletionsQueue", "ApproximateNumberOfMessagesVisible"), "Maximum", "completions"),
        line(queue("CompletionsQueue", "ApproximateNumberOfMessagesNotVisible"), "Maximum", "in flight"),
        line(queue("DeadLetterQueue", "ApproximateNumberOfMessagesVisible"), "Maximum", "dead letters"),
      ],
    },
    {
      title: "Errors (per minute)",
      rows: [
        line(lambda("DispatchLambdaFunction", "Errors"), "Sum", "dispatch"),
        line(lambda("ReconcileLambdaFunction", "Errors"), "Sum", "reconcile"),
        line(lambda("DispatchLambdaFunction", "Throttles"), "Sum", "dispatch, throttled"),
        dispatch(METRICS.messagesFailed, "Sum"),
        dispatch(METRICS.messagesDeadLettered, "Sum"),
        dispatch(METRICS.invariantViolations, "Sum"),
      ],
    },
    {
      title: "Valkey latency (ms per round trip)",
      rows: [
        dispatch(METRICS.valkeyLatency, "p50", "dispatch, p50"),
        dispatch(METRICS.valkeyLatency, "p99", "dispatch, p99"),
        reconcile(METRICS.valkeyLatency, "p99", "reconcile, p99"),
      ],
    },
    {
      title: "Duration (ms) and concurrency of dispatch",
      rows: [
        line(lambda("DispatchLambdaFunction", "Duration"), "p50", "p50"),
        line(lambda("DispatchLambdaFunction", "Duration"), "p99", "p99"),
        line(lambda("DispatchLambdaFunction", "ConcurrentExecutions"), "Maximum", "concurrent"),
      ],
    },
    {
      title: "Reconciler (per minute)",
      rows: [
        reconcile(METRICS.executionsScanned, "Sum"),
        reconcile(METRICS.completionsRepaired, "Sum"),
        reconcile(METRICS.completionsDeferred, "Sum"),
        reconcile(METRICS.executionsPromoted, "Sum"),
        reconcile(METRICS.indexesUnread, "Sum"),
        reconcile(METRICS.sweepDuration, "Maximum", "duration of a sweep (ms)"),
      ],
    },
    {
      title: "Leases, timeouts and delays (per minute)",
      rows: [
        reconcile(METRICS.leasesExpired, "Sum"),
        reconcile(METRICS.reclaimLimitReached, "Sum"),
        reconcile(METRICS.executionsExpired, "Sum"),
        reconcile(METRICS.delaysPromoted, "Sum"),
        reconcile(METRICS.completionsSent, "Sum"),
        reconcile(METRICS.oldestDueDelay, "Maximum", "latest promotion (s late)"),
      ],
    },
    {
      title: "Retention",
      rows: [
        reconcile(METRICS.flowsRetained, "Maximum"),
        reconcile(METRICS.flowsPurged, "Sum"),
        reconcile(METRICS.executionsPurged, "Sum"),
        reconcile(METRICS.flowEndsSent, "Sum"),
        dispatch(METRICS.flowPurged, "Sum"),
      ],
    },
    {
      title: "Operators (sluice --stage, per minute)",
      rows: [
        line(sluice(deployment, "operate-read", METRICS.operationsRun), "Sum", "operations that read"),
        line(sluice(deployment, "operate-write", METRICS.operationsRun), "Sum", "operations that write"),
        line(sluice(deployment, "operate-write", METRICS.changesMade), "Sum"),
        line(sluice(deployment, "operate-write", METRICS.changesFailed), "Sum"),
        line(lambda("OperateReadLambdaFunction", "Errors"), "Sum", "errors of operate-read"),
        line(lambda("OperateWriteLambdaFunction", "Errors"), "Sum", "errors of operate-write"),
      ],
    },
    {
      title: "Irregular input (per minute)",
      rows: [
        dispatch(METRICS.messagesMalformed, "Sum"),
        dispatch(METRICS.recordNotTerminal, "Sum"),
        dispatch(METRICS.edgesUnreadable, "Sum"),
        dispatch(METRICS.marksFailed, "Sum"),
        reconcile(METRICS.promotionsRefused, "Sum"),
        reconcile(METRICS.recordsUnreadable, "Sum"),
      ],
    },
    ...(deployment.lanes.length === 0 ? [] : workerWidgets(deployment)),
    ...(deployment.valkey === undefined ? [] : VALKEY_WIDGETS),
  ];
}

/** Tasks of all lanes, and one widget per lane. */
function workerWidgets({ lanes, stage }: Deployment): Widget[] {
  const tasks = (metric: string, stat: Statistic): Row => ({
    search:
      `SEARCH('{${NAMESPACE},kind,lane,${DIMENSION},${STAGE_DIMENSION}} ${DIMENSION}="worker" ` +
      `${STAGE_DIMENSION}="${stage}" MetricName="${metric}"', '${stat}', 60)`,
  });
  return [
    {
      title: "Tasks (per minute)",
      rows: [
        tasks(TASK_METRICS.completed, "Sum"),
        tasks(TASK_METRICS.failed, "Sum"),
        tasks(TASK_METRICS.reclaims, "Sum"),
        tasks(TASK_METRICS.leaseLost, "Sum"),
        tasks(TASK_METRICS.unknownKinds, "Sum"),
        tasks(TASK_METRICS.attempts, "Maximum"),
      ],
    },
    {
      title: "Tasks: queue wait and run time (ms)",
      rows: [
        tasks(TASK_METRICS.queueWait, "p50"),
        tasks(TASK_METRICS.queueWait, "p99"),
        tasks(TASK_METRICS.runTime, "p50"),
        tasks(TASK_METRICS.runTime, "p99"),
      ],
    },
    ...lanes.map(({ name, suffix, worker }) => ({
      title: `Lane ${name}`,
      rows: [
        line(queue(`LaneQueue${suffix}`, "ApproximateNumberOfMessagesVisible"), "Maximum", "waiting"),
        line(queue(`LaneQueue${suffix}`, "ApproximateAgeOfOldestMessage"), "Maximum", "oldest (s)"),
        line(
          queue(`LaneDeadLetterQueue${suffix}`, "ApproximateNumberOfMessagesVisible"),
          "Maximum",
          "dead letters",
        ),
        ...(worker === undefined
          ? []
          : [
              line(lambda(`Worker${suffix}LambdaFunction`, "ConcurrentExecutions"), "Maximum", "concurrent"),
              line(lambda(`Worker${suffix}LambdaFunction`, "Errors"), "Sum", "errors"),
              line(lambda(`Worker${suffix}LambdaFunction`, "Throttles"), "Sum", "throttles"),
            ]),
      ],
    })),
  ];
}

const VALKEY_WIDGETS: readonly Widget[] = [
  { title: "Valkey: memory (%)", rows: [valkeyNodes("DatabaseMemoryUsagePercentage", "Maximum")] },
  { title: "Valkey: engine CPU (%)", rows: [valkeyNodes("EngineCPUUtilization", "Maximum")] },
  {
    title: "Valkey: evictions and replication lag (s)",
    rows: [valkeyNodes("Evictions", "Sum"), valkeyNodes("ReplicationLag", "Maximum")],
  },
  { title: "Valkey: connections", rows: [valkeyNodes("CurrConnections", "Maximum")] },
];

/** See CloudWatch, "Dashboard Body Structure and Syntax". Fn::Sub replaces `${…}`. */
export function dashboardBody(deployment: Deployment): unknown {
  return {
    widgets: widgets(deployment).map(({ title, rows }, index) => ({
      type: "metric",
      x: (index % COLUMNS) * WIDTH,
      y: Math.floor(index / COLUMNS) * HEIGHT,
      width: WIDTH,
      height: HEIGHT,
      properties: {
        title,
        metrics: rows.map((row) =>
          "search" in row
            ? [{ expression: row.search, label: "" }]
            : [
                row.metric.namespace,
                row.metric.name,
                ...Object.entries(row.metric.dimensions).flat(),
                { stat: row.stat, label: row.label },
              ],
        ),
        // biome-ignore lint/suspicious/noTemplateCurlyInString: CloudFormation replaces it.
        region: "${AWS::Region}",
        view: "timeSeries",
        period: 60,
      },
    })),
  };
}

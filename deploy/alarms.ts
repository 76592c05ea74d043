/** The CloudWatch alarms, as CloudFormation resources. docs/runbook.md says what to do about each. */

import { METRICS } from "#shared/runtime/telemetry.ts";
import { laneAlarms, unknownKinds } from "./lane-alarms.ts";
import {
  type AlarmSpec,
  type Deployment,
  lambda,
  type Metric,
  queue,
  sluice,
  valkeyNodes,
} from "./metrics.ts";

const MINUTE_SECONDS = 60;
const DAY_SECONDS = 86_400;
/** Half of the dead-letter queue's retention. */
const OLDEST_DEAD_LETTER_DAYS = 7;
/** ElastiCache accepts 65,000 connections per node. */
const MAX_CONNECTIONS = 50_000;

interface MathAlarmSpec {
  readonly description: string;
  /** A metric math expression over `inputs`. */
  readonly expression: string;
  readonly inputs: Readonly<Record<string, Metric>>;
  readonly statistic: "Sum" | "Maximum";
  readonly periodSeconds: number;
  /** Properties of the alarm: threshold, comparison, evaluation, missing data. */
  readonly properties: Readonly<Record<string, unknown>>;
}

/** The alarms of a deployment by logical id. `actions` are notified when an alarm fires and when it ends. */
export function alarms(deployment: Deployment, actions: unknown): Record<string, unknown> {
  const notify = { AlarmActions: actions, OKActions: actions };
  const simple = Object.entries({ ...simpleAlarms(deployment), ...laneAlarms(deployment) }).map(
    ([id, spec]) => [id, simpleAlarm(spec)] as const,
  );
  const computed = [
    ["NewDeadLettersAlarm", mathAlarm(NEW_DEAD_LETTERS)],
    ["ReconcilerSilentAlarm", mathAlarm(RECONCILER_SILENT)],
    ...valkeyAlarms(deployment),
    ...unknownKinds(deployment).map((properties) => ["UnknownKindsAlarm", properties] as const),
  ] as const;
  return Object.fromEntries(
    [...simple, ...computed].map(([id, properties]) => {
      const { AlarmDescription: text, ...rest } = properties;
      const AlarmDescription = `${String(text)} Runbook: docs/runbook.md#${runbookEntry(id).toLowerCase()}`;
      return [id, { Type: "AWS::CloudWatch::Alarm", Properties: { AlarmDescription, ...rest, ...notify } }];
    }),
  );
}

/** The entry of docs/runbook.md for an alarm: its logical id without a lane or a shard. */
export function runbookEntry(id: string): string {
  return id.replace(/^(Lane[A-Za-z]+?Alarm).*$/, "$1").replace(/Shard\d+Alarm$/, "Alarm");
}

function simpleAlarms(deployment: Deployment): Readonly<Record<string, AlarmSpec>> {
  const dispatch = (name: Parameters<typeof sluice<"dispatch">>[2]) => sluice(deployment, "dispatch", name);
  const reconcile = (name: Parameters<typeof sluice<"reconcile">>[2]) =>
    sluice(deployment, "reconcile", name);
  return {
    DeadLettersAlarm: {
      description:
        "The dead-letter queue contains completions that could not be dispatched. See docs/dead-letters.md.",
      metric: queue("DeadLetterQueue", "ApproximateNumberOfMessagesVisible"),
      statistic: "Maximum",
      above: 0,
    },
    OldestDeadLetterAlarm: {
      description: `A dead letter is ${OLDEST_DEAD_LETTER_DAYS} days old. SQS deletes it 14 days after it was first sent.`,
      metric: queue("DeadLetterQueue", "ApproximateAgeOfOldestMessage"),
      statistic: "Maximum",
      above: OLDEST_DEAD_LETTER_DAYS * DAY_SECONDS,
    },
    OldestMessageAlarm: {
      description:
        "Completions wait too long for dispatch. Check Valkey and the parameter maximumConcurrency.",
      metric: queue("CompletionsQueue", "ApproximateAgeOfOldestMessage"),
      statistic: "Maximum",
      above: deployment.oldestMessageSeconds,
    },
    DispatchErrorsAlarm: {
      description:
        "Invocations of dispatch fail - it cannot start, cannot reach Valkey, or times out. See its log.",
      metric: lambda("DispatchLambdaFunction", "Errors"),
      statistic: "Sum",
      above: 0,
    },
    DispatchThrottlesAlarm: {
      description:
        "Lambda throttles dispatch for five minutes. Raise the account's concurrency limit, or lower maximumConcurrency.",
      metric: lambda("DispatchLambdaFunction", "Throttles"),
      statistic: "Sum",
      above: 0,
      minutes: 5,
    },
    MessagesFailedAlarm: {
      description: "Messages fail for five minutes and will become dead letters. See the log of dispatch.",
      metric: dispatch(METRICS.messagesFailed),
      statistic: "Sum",
      above: 0,
      minutes: 5,
    },
    DepthLimitAlarm: {
      description: "A skip cascade is deeper than maxCascadeDepth. It restarts at depth 0 after a minute.",
      metric: dispatch(METRICS.depthLimitReached),
      statistic: "Sum",
      above: 0,
    },
    InvariantViolationAlarm: {
      description:
        "An edge group has more outcomes than edges (invariant_violation). See the dead letter, which is sent once.",
      metric: dispatch(METRICS.invariantViolations),
      statistic: "Sum",
      above: 0,
    },
    ReconcilerRepairsAlarm: {
      description: "The reconciler resent completions that dispatch had missed. See docs/reconciler.md.",
      metric: reconcile(METRICS.completionsRepaired),
      statistic: "Sum",
      above: 0,
    },
    ReconcilerPromotionsAlarm: {
      description:
        "The reconciler promoted executions that had no unresolved upstream. See docs/reconciler.md.",
      metric: reconcile(METRICS.executionsPromoted),
      statistic: "Sum",
      above: 0,
    },
    ReclaimLimitAlarm: {
      description:
        "Executions failed because their workers died too often (max_reclaims_exceeded). See docs/operations.md.",
      metric: reconcile(METRICS.reclaimLimitReached),
      statistic: "Sum",
      above: 0,
    },
    LateDelaysAlarm: {
      description: "The reconciler promotes retries and delayed executions minutes late. See its log.",
      metric: reconcile(METRICS.oldestDueDelay),
      statistic: "Maximum",
      above: 180,
    },
    IndexesUnreadAlarm: {
      description:
        "The reconciler cannot read an index, so it cannot recover the executions in it. See its log.",
      metric: reconcile(METRICS.indexesUnread),
      statistic: "Sum",
      above: 0,
      minutes: 5,
    },
  };
}

/**
 * Fires for each new dead letter, although an older one keeps DeadLettersAlarm firing. Messages in flight count, so a
 * replay that hides messages and returns them is no change. SQS omits the metrics of an empty, idle queue: FILL. Metrics
 * arrive up to some minutes late, after FILL has replaced them: five periods are evaluated each time.
 */
const NEW_DEAD_LETTERS: MathAlarmSpec = {
  description:
    "A completion was added to the dead-letter queue in the last five minutes. See docs/dead-letters.md.",
  expression: "DIFF(FILL(visible, 0) + FILL(hidden, 0))",
  inputs: {
    visible: queue("DeadLetterQueue", "ApproximateNumberOfMessagesVisible"),
    hidden: queue("DeadLetterQueue", "ApproximateNumberOfMessagesNotVisible"),
  },
  statistic: "Maximum",
  periodSeconds: MINUTE_SECONDS,
  properties: {
    EvaluationPeriods: 5,
    DatapointsToAlarm: 1,
    Threshold: 0,
    ComparisonOperator: "GreaterThanThreshold",
    TreatMissingData: "notBreaching",
  },
};

/** Failed invocations do not count as runs. */
const RECONCILER_SILENT: MathAlarmSpec = {
  description:
    "The reconciler has not completed a run for five minutes. Missed completions are not recovered.",
  expression: "invocations - errors",
  inputs: {
    invocations: lambda("ReconcileLambdaFunction", "Invocations"),
    errors: lambda("ReconcileLambdaFunction", "Errors"),
  },
  statistic: "Sum",
  periodSeconds: 5 * MINUTE_SECONDS,
  properties: {
    EvaluationPeriods: 1,
    Threshold: 1,
    ComparisonOperator: "LessThanThreshold",
    TreatMissingData: "breaching",
  },
};

/** The watched metrics of every Valkey node. */
const VALKEY_ALARMS = {
  Memory: {
    metric: "DatabaseMemoryUsagePercentage",
    what: "Valkey uses more than 75 % of its memory. At 100 % it refuses writes: add shards or use larger nodes.",
    statistic: "Maximum",
    above: 75,
    minutes: 5,
  },
  EngineCpu: {
    metric: "EngineCPUUtilization",
    what: "Valkey's engine thread is busy for more than 80 %. Add shards, or lower maximumConcurrency.",
    statistic: "Maximum",
    above: 80,
    minutes: 5,
  },
  Evictions: {
    metric: "Evictions",
    what: "Valkey evicts keys, which the parameter group forbids. Executions are lost: check maxmemory-policy.",
    statistic: "Sum",
    above: 0,
    minutes: 1,
  },
  Connections: {
    metric: "CurrConnections",
    what: "Valkey has more than 50,000 connections of 65,000. Find the client that leaks them.",
    statistic: "Maximum",
    above: MAX_CONNECTIONS,
    minutes: 5,
  },
  ReplicationLag: {
    metric: "ReplicationLag",
    what: "A Valkey replica is more than 5 s behind. A failover may lose the writes of that time.",
    statistic: "Maximum",
    above: 5,
    minutes: 5,
  },
} as const;

function valkeyAlarms({ valkey }: Deployment): [id: string, properties: Record<string, unknown>][] {
  if (valkey === undefined) return [];
  const shards = Array.from({ length: valkey.shards }, (_, index) => index + 1);
  return shards.flatMap((shard) =>
    Object.entries(VALKEY_ALARMS).map(
      ([name, { metric, what, statistic, above, minutes }]): [string, Record<string, unknown>] => {
        const nodes = valkeyNodes(shard, valkey.replicas + 1, metric);
        return [
          `Valkey${name}Shard${shard}Alarm`,
          mathAlarm({
            description: `Shard ${shard}: ${what}`,
            expression: "MAX(METRICS())",
            inputs: Object.fromEntries(nodes.map((node, index) => [`node${index + 1}`, node])),
            statistic,
            periodSeconds: MINUTE_SECONDS,
            properties: {
              EvaluationPeriods: minutes,
              Threshold: above,
              ComparisonOperator: "GreaterThanThreshold",
              TreatMissingData: "notBreaching",
            },
          }),
        ];
      },
    ),
  );
}

function simpleAlarm({
  description,
  metric,
  statistic,
  above,
  minutes = 1,
}: AlarmSpec): Record<string, unknown> {
  return {
    AlarmDescription: description,
    ...cloudFormation(metric),
    Statistic: statistic,
    Period: MINUTE_SECONDS,
    EvaluationPeriods: minutes,
    Threshold: above,
    ComparisonOperator: "GreaterThanThreshold",
    TreatMissingData: "notBreaching",
  };
}

function mathAlarm(spec: MathAlarmSpec): Record<string, unknown> {
  return {
    AlarmDescription: spec.description,
    Metrics: [
      { Id: "value", Expression: spec.expression },
      ...Object.entries(spec.inputs).map(([id, metric]) => ({
        Id: id,
        ReturnData: false,
        MetricStat: {
          Metric: cloudFormation(metric),
          Period: spec.periodSeconds,
          Stat: spec.statistic,
        },
      })),
    ],
    ...spec.properties,
  };
}

/** The properties of an alarm that identify its metric. */
function cloudFormation({ namespace, name, dimensions }: Metric): Record<string, unknown> {
  return {
    Namespace: namespace,
    MetricName: name,
    Dimensions: Object.entries(dimensions).map(([dimension, value]) => ({
      Name: dimension,
      Value: value.includes("${") ? { "Fn::Sub": value } : value,
    })),
  };
}

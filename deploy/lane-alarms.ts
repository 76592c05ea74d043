/** The alarms of worker lanes. docs/workers.md says what each failure looks like. */

import { DIMENSION, METRICS, NAMESPACE, STAGE_DIMENSION, TASK_METRICS } from "#shared/runtime/telemetry.ts";
import type { ReadyLane } from "./lanes.ts";
import { type AlarmSpec, type Deployment, lambda, queue } from "./metrics.ts";

/** The alarms of every lane, and one on the dispatcher in all workers, by logical id. */
export function laneAlarms({ lanes, stage, oldestMessageSeconds }: Deployment): Record<string, AlarmSpec> {
  if (lanes.length === 0) return {};
  const invariants: AlarmSpec = {
    description:
      "An edge group has more outcomes than edges (invariant_violation), as a worker found. See its log.",
    metric: {
      namespace: NAMESPACE,
      name: METRICS.invariantViolations,
      dimensions: { [DIMENSION]: "worker", [STAGE_DIMENSION]: stage },
    },
    statistic: "Sum",
    above: 0,
  };
  return Object.assign(
    { WorkerInvariantViolationAlarm: invariants },
    ...lanes.map((lane) => alarmsOf(lane, oldestMessageSeconds)),
  );
}

function alarmsOf(
  { name, suffix, timeoutSeconds, worker }: ReadyLane,
  oldestMessageSeconds: number,
): Record<string, AlarmSpec> {
  const errors: AlarmSpec = {
    description: `Invocations of the worker of lane ${name} fail - it cannot start, reach Valkey, or times out. See its log.`,
    metric: lambda(`Worker${suffix}LambdaFunction`, "Errors"),
    statistic: "Sum",
    above: 0,
  };
  const throttles: AlarmSpec = {
    description: `Lambda throttles the worker of lane ${name} for five minutes. Raise the account's concurrency limit.`,
    metric: lambda(`Worker${suffix}LambdaFunction`, "Throttles"),
    statistic: "Sum",
    above: 0,
    minutes: 5,
  };
  return {
    [`LaneDeadLettersAlarm${suffix}`]: {
      description: `Ready messages of lane ${name} were given up: malformed, or of a kind without a task. See docs/workers.md.`,
      metric: queue(`LaneDeadLetterQueue${suffix}`, "ApproximateNumberOfMessagesVisible"),
      statistic: "Maximum",
      above: 0,
    },
    [`LaneOldestMessageAlarm${suffix}`]: {
      description: `Executions of lane ${name} wait too long for a worker. Add workers. See docs/workers.md.`,
      metric: queue(`LaneQueue${suffix}`, "ApproximateAgeOfOldestMessage"),
      statistic: "Maximum",
      // A message also counts while its task runs.
      above: oldestMessageSeconds + timeoutSeconds,
    },
    ...(worker === undefined ? {} : { [`LaneErrorsAlarm${suffix}`]: errors }),
    // The event source mapping of a serial lane is throttled whenever more than one message waits.
    ...(worker === undefined || worker.isSerial ? {} : { [`LaneThrottlesAlarm${suffix}`]: throttles }),
  };
}

/**
 * The properties of the alarm on executions whose kind no worker has a task for. The metric has a dimension with the kind,
 * which is unknown here: a query of Metrics Insights sums over it.
 */
export function unknownKinds({ lanes, stage }: Deployment): readonly Record<string, unknown>[] {
  if (lanes.length === 0) return [];
  return [
    {
      AlarmDescription:
        "A lane has executions of a kind that its worker has no task for. See the worker's log and docs/workers.md.",
      Metrics: [
        {
          Id: "unknown",
          Expression:
            // In double quotes, since some names may be keywords of the language.
            `SELECT SUM("${TASK_METRICS.unknownKinds}") ` +
            `FROM SCHEMA("${NAMESPACE}", "kind", "lane", "${DIMENSION}", "${STAGE_DIMENSION}") ` +
            `WHERE "${DIMENSION}" = 'worker' AND "${STAGE_DIMENSION}" = '${stage}'`,
          Period: 60,
        },
      ],
      EvaluationPeriods: 1,
      Threshold: 0,
      ComparisonOperator: "GreaterThanThreshold",
      TreatMissingData: "notBreaching",
    },
  ];
}

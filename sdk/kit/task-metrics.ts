import { Metrics, MetricUnit } from "@aws-lambda-powertools/metrics";
import type { AnyTask } from "#sdk/kit/define-task.ts";
import type { MeasuredRun, TaskMetrics } from "#sdk/kit/ports.ts";
import { NAMESPACE, STAGE_DIMENSION, TASK_METRICS } from "#shared/runtime/telemetry.ts";

const SERVICE = "worker";

/**
 * Metrics of a worker, in CloudWatch's embedded metric format. Their dimensions are those of every metric of Sluice, and the
 * lane and kind of the task. Call `publish` at the end of an invocation.
 */
export class EmbeddedTaskMetrics implements TaskMetrics {
  readonly #stage: string;
  readonly #metrics = new Map<string, Metrics>();

  constructor(stage: string) {
    this.#stage = stage;
  }

  ran({ lane, kind }: AnyTask, { outcome, runMs, queueWaitMs, attempt, isReclaim }: MeasuredRun): void {
    const metrics = this.#of(lane, kind);
    const name = {
      success: TASK_METRICS.completed,
      failed: TASK_METRICS.failed,
      lease_lost: TASK_METRICS.leaseLost,
    }[outcome];
    metrics.addMetric(name, MetricUnit.Count, 1);
    metrics.addMetric(TASK_METRICS.runTime, MetricUnit.Milliseconds, Math.round(runMs));
    metrics.addMetric(TASK_METRICS.attempts, MetricUnit.Count, attempt);
    if (queueWaitMs !== undefined) {
      metrics.addMetric(TASK_METRICS.queueWait, MetricUnit.Milliseconds, Math.round(queueWaitMs));
    }
    if (isReclaim) metrics.addMetric(TASK_METRICS.reclaims, MetricUnit.Count, 1);
  }

  unknownKind(lane: string, kind: string): void {
    this.#of(lane, kind).addMetric(TASK_METRICS.unknownKinds, MetricUnit.Count, 1);
  }

  publish(): void {
    for (const metrics of this.#metrics.values()) {
      // Powertools warns about those that counted nothing since the last invocation.
      if (metrics.hasStoredMetrics()) metrics.publishStoredMetrics();
    }
  }

  #of(lane: string, kind: string): Metrics {
    const key = JSON.stringify([lane, kind]);
    let metrics = this.#metrics.get(key);
    if (metrics === undefined) {
      metrics = new Metrics({
        namespace: NAMESPACE,
        serviceName: SERVICE,
        defaultDimensions: { [STAGE_DIMENSION]: this.#stage, lane, kind },
      });
      this.#metrics.set(key, metrics);
    }
    return metrics;
  }
}

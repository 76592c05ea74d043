/** Powertools wiring of the Lambda functions: one logger and one set of metrics per process. */

import type { Logger } from "@aws-lambda-powertools/logger";
import { Metrics, MetricUnit } from "@aws-lambda-powertools/metrics";
import { createLogger } from "#shared/runtime/logger.ts";
import {
  type GaugingTelemetry,
  type MetricName,
  NAMESPACE,
  STAGE_DIMENSION,
  unitOf,
} from "#shared/runtime/telemetry.ts";

export interface Powertools {
  readonly logger: Logger;
  /** Logs one line per message. It omits the fields of Lambda's context, which make up a third of such a line. */
  readonly messageLogger: Logger;
  readonly metrics: Metrics;
  readonly telemetry: GaugingTelemetry;
}

/**
 * Metrics that add up the counts of an invocation and write each once. Powertools keeps every value, and writes a line
 * for each 100 values of a metric.
 */
class SummedMetrics extends Metrics {
  readonly #counts = new Map<MetricName, number>();

  count(metric: MetricName, value: number): void {
    this.#counts.set(metric, (this.#counts.get(metric) ?? 0) + value);
  }

  override hasStoredMetrics(): boolean {
    return this.#counts.size > 0 || super.hasStoredMetrics();
  }

  /** The middleware calls it when the invocation has ended. */
  override publishStoredMetrics(): this {
    const counts = [...this.#counts];
    this.#counts.clear();
    for (const [metric, value] of counts) this.addMetric(metric, MetricUnit.Count, value);
    return super.publishStoredMetrics();
  }
}

/** The value of the dimension `stage` outside of a deployment. */
const DEFAULT_STAGE = "local";

/**
 * Creates the logger and metrics of a function. `service` is its name. The metrics have the dimensions `service` and
 * `stage`, from the environment variable SLUICE_STAGE.
 */
export function createPowertools(service: string): Powertools {
  const logger = createLogger(service);
  const metrics = new SummedMetrics({
    namespace: NAMESPACE,
    serviceName: service,
    defaultDimensions: { [STAGE_DIMENSION]: process.env.SLUICE_STAGE || DEFAULT_STAGE },
  });
  const telemetry: GaugingTelemetry = {
    count: (metric, value = 1) => metrics.count(metric, value),
    measure: (metric, value) => metrics.addMetric(metric, unitOf(metric), value),
    info: (message, fields) => logger.info(message, fields),
    warn: (message, fields) => logger.warn(message, fields),
    error: (message, fields) => logger.error(message, fields),
  };
  return { logger, messageLogger: logger.createChild(), metrics, telemetry };
}

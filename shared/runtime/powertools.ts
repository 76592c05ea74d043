/** Powertools wiring of the Lambda functions: one logger and one set of metrics per process. */

import { Logger } from "@aws-lambda-powertools/logger";
import { Metrics, MetricUnit } from "@aws-lambda-powertools/metrics";
import { type GaugingTelemetry, NAMESPACE, unitOf } from "#shared/runtime/telemetry.ts";

export interface Powertools {
  readonly logger: Logger;
  /** Logs one line per message. It omits the fields of Lambda's context, which make up a third of such a line. */
  readonly messageLogger: Logger;
  readonly metrics: Metrics;
  readonly telemetry: GaugingTelemetry;
}

/** Creates the logger and metrics of a function. `service` is its name, and the value of the metrics' dimension. */
export function createPowertools(service: string): Powertools {
  const logger = new Logger({ serviceName: `sluice-${service}` });
  const metrics = new Metrics({ namespace: NAMESPACE, serviceName: service });
  const telemetry: GaugingTelemetry = {
    count: (metric, value = 1) => metrics.addMetric(metric, MetricUnit.Count, value),
    measure: (metric, value) => metrics.addMetric(metric, unitOf(metric), value),
    info: (message, fields) => logger.info(message, fields),
    warn: (message, fields) => logger.warn(message, fields),
    error: (message, fields) => logger.error(message, fields),
  };
  return { logger, messageLogger: logger.createChild(), metrics, telemetry };
}

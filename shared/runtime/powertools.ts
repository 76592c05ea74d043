/** Powertools, as our functions on Valkey use it: one logger and one set of metrics a process. */

import { Logger } from "@aws-lambda-powertools/logger";
import { Metrics, MetricUnit } from "@aws-lambda-powertools/metrics";
import { type GaugingTelemetry, NAMESPACE, unitOf } from "#shared/runtime/telemetry.ts";

export interface Powertools {
  readonly logger: Logger;
  /**
   * For a line about every message: without what Lambda's context adds to each of the other logger's lines, which is a
   * third of what such a line takes.
   */
  readonly messageLogger: Logger;
  readonly metrics: Metrics;
  readonly telemetry: GaugingTelemetry;
}

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

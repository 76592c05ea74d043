/** Powertools, as our functions on Valkey use it: one logger and one set of metrics a process. */

import { Logger } from "@aws-lambda-powertools/logger";
import { Metrics, MetricUnit } from "@aws-lambda-powertools/metrics";
import type { ValkeyConfig } from "#shared/config.ts";
import { checkPartitions } from "#shared/dispatch/start-up.ts";
import { PARTITION_CONFIG_KEY } from "#shared/keys.ts";
import { type GaugingTelemetry, NAMESPACE, unitOf } from "#shared/telemetry.ts";
import { Valkey } from "#shared/valkey/client.ts";
import { SessionKeeper } from "#shared/valkey/session.ts";

export interface Powertools {
  readonly logger: Logger;
  /**
   * For a line about every message: without what Lambda's context adds to each of the other logger's lines, which is a
   * third of what such a line takes.
   */
  readonly journal: Logger;
  readonly metrics: Metrics;
  readonly telemetry: GaugingTelemetry;
}

export function powertoolsFor(service: string): Powertools {
  const logger = new Logger({ serviceName: `sluice-${service}` });
  const metrics = new Metrics({ namespace: NAMESPACE, serviceName: service });
  const telemetry: GaugingTelemetry = {
    count: (metric, value = 1) => metrics.addMetric(metric, MetricUnit.Count, value),
    measure: (metric, value) => metrics.addMetric(metric, unitOf(metric), value),
    info: (message, fields) => logger.info(message, fields),
    warn: (message, fields) => logger.warn(message, fields),
    error: (message, fields) => logger.error(message, fields),
  };
  return { logger, journal: logger.createChild(), metrics, telemetry };
}

/**
 * Sessions with the configured Valkey. Each new client is checked against the recorded partition count before
 * `start` looks at the server; that none is recorded is told once.
 */
export function sessionsFor<Facts>(
  config: ValkeyConfig,
  telemetry: GaugingTelemetry,
  start: (valkey: Valkey) => Promise<Facts>,
): SessionKeeper<Facts> {
  let isAbsenceTold = false;
  return new SessionKeeper(
    (knownNodes) =>
      new Valkey(config.valkey, {
        knownNodes,
        onConnectionError: ({ message }) =>
          telemetry.warn("the connection to Valkey failed", { reason: message }),
      }),
    async (valkey) => {
      if (!(await checkPartitions(valkey, config)) && !isAbsenceTold) {
        isAbsenceTold = true;
        telemetry.warn(
          `${PARTITION_CONFIG_KEY} is not recorded: going on with the configured partition count`,
          {
            flow_partitions: config.partitions.numFlowPartitions,
          },
        );
      }
      return start(valkey);
    },
  );
}

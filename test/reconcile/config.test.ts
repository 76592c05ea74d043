import { describe, expect, it } from "vitest";
import { readReconcileConfig } from "#functions/reconcile/config.ts";
import { ConfigurationError } from "#shared/errors.ts";

const REQUIRED = {
  VALKEY_URL: "redis://127.0.0.1:6379",
  COMPLETIONS_QUEUE_URL: "https://sqs.eu-west-1.amazonaws.com/123456789012/completions",
};

function errorsOf(env: Record<string, string>): readonly string[] {
  try {
    readReconcileConfig(env);
  } catch (error) {
    if (error instanceof ConfigurationError) return error.errors;
    throw error;
  }
  return [];
}

describe("readReconcileConfig", () => {
  it("has defaults for everything except the two URLs", () => {
    expect(readReconcileConfig(REQUIRED)).toMatchObject({
      valkey: { cluster: false },
      completionsQueueUrl: REQUIRED.COMPLETIONS_QUEUE_URL,
      partitions: { numFlowPartitions: 256 },
      lanes: ["default"],
      graceMs: 30_000,
      tasks: undefined,
      retentionMs: 168 * 3_600_000,
      flowEventsQueueUrl: undefined,
      intervalMs: Number.POSITIVE_INFINITY,
    });
  });

  it("reads every variable and removes duplicate lanes", () => {
    const config = readReconcileConfig({
      ...REQUIRED,
      VALKEY_CLUSTER_MODE: "true",
      FLOW_PARTITIONS: "1024",
      LANES: "default, gpu,my lane,gpu",
      RECONCILE_GRACE_SECONDS: "0",
      RECONCILE_TASKS: "delays, leases,delays",
      RETENTION_HOURS: "0",
      FLOW_EVENTS_QUEUE_URL: "https://sqs.eu-west-1.amazonaws.com/123456789012/ends",
      RECONCILE_INTERVAL_SECONDS: "5",
    });
    expect(config).toMatchObject({
      valkey: { cluster: true },
      partitions: { numFlowPartitions: 1024 },
      lanes: ["default", "gpu", "my lane"],
      graceMs: 0,
      tasks: ["delays", "leases"],
      retentionMs: 0,
      flowEventsQueueUrl: "https://sqs.eu-west-1.amazonaws.com/123456789012/ends",
      intervalMs: 5_000,
    });
  });

  it("repeats nothing at the interval of the schedule", () => {
    const config = readReconcileConfig({ ...REQUIRED, RECONCILE_INTERVAL_SECONDS: "60" });
    expect(config.intervalMs).toBe(Number.POSITIVE_INFINITY);
  });

  it("reports every invalid variable in one error", () => {
    const errors = errorsOf({
      VALKEY_URL: "redis://host/first",
      VALKEY_CLUSTER_MODE: "maybe",
      FLOW_PARTITIONS: "0",
      LANES: "good,,\u00fcber",
      RECONCILE_GRACE_SECONDS: "86401",
      RECONCILE_TASKS: "leases,everything",
      RETENTION_HOURS: "87601",
      FLOW_EVENTS_QUEUE_URL: "https://sqs.eu-west-1.amazonaws.com/123456789012/ends.fifo",
      RECONCILE_INTERVAL_SECONDS: "61",
    });
    const names = errors.map((error) => error.split(" ", 1)[0]).sort();
    expect(names).toEqual([
      "COMPLETIONS_QUEUE_URL",
      "FLOW_EVENTS_QUEUE_URL",
      "FLOW_PARTITIONS",
      "LANES",
      "LANES",
      "RECONCILE_GRACE_SECONDS",
      "RECONCILE_INTERVAL_SECONDS",
      "RECONCILE_TASKS",
      "RETENTION_HOURS",
      "VALKEY_CLUSTER_MODE",
      "VALKEY_URL",
    ]);
  });
});

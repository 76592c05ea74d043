import { describe, expect, it } from "vitest";
import { readDispatchConfig } from "#functions/dispatch/config.ts";
import { readProvisionConfig } from "#functions/provision/config.ts";
import { readReconcileConfig } from "#functions/reconcile/config.ts";
import { readRelayConfig } from "#relay/config.ts";
import { ConfigurationError } from "#shared/errors.ts";
import { readRedriveConfig } from "#shared/redrive/config.ts";
import { type Environment, LOG_LEVELS, readLogLevel } from "#shared/runtime/environment.ts";
import { nameOf } from "#shared/valkey/address.ts";

const REQUIRED = {
  VALKEY_URL: "redis://127.0.0.1:6379",
  COMPLETIONS_QUEUE_URL: "https://sqs.eu-west-1.amazonaws.com/123456789012/completions",
};

const QUEUES = {
  COMPLETIONS_QUEUE_URL: REQUIRED.COMPLETIONS_QUEUE_URL,
  DEAD_LETTER_QUEUE_URL: `${REQUIRED.COMPLETIONS_QUEUE_URL}-dead`,
};

function errorsOf(
  env: Record<string, string>,
  read: (env: Environment) => unknown = readDispatchConfig,
): readonly string[] {
  try {
    read(env);
  } catch (error) {
    if (error instanceof ConfigurationError) return error.errors;
    throw error;
  }
  return [];
}

describe("readDispatchConfig", () => {
  it("has defaults for all variables except the two URLs", () => {
    const config = readDispatchConfig(REQUIRED);
    expect(config).toMatchObject({
      valkey: { cluster: false },
      completionsQueueUrl: REQUIRED.COMPLETIONS_QUEUE_URL,
      partitions: { numFlowPartitions: 256 },
      maxCascadeDepth: 50,
      restartDelaySeconds: 60,
      edition: "auto",
    });
    expect(config.valkey.url.href).toBe("redis://127.0.0.1:6379");
  });

  it("reads every variable", () => {
    const config = readDispatchConfig({
      ...REQUIRED,
      VALKEY_URL: "rediss://user:p%40ss@cache.example:6380",
      VALKEY_CLUSTER_MODE: "true",
      FLOW_PARTITIONS: "1024",
      MAX_CASCADE_DEPTH: "0",
      CASCADE_RESTART_SECONDS: "900",
      LIBRARY_EDITION: "14",
    });
    expect(config.valkey.url).toMatchObject({ protocol: "rediss:", username: "user", password: "p%40ss" });
    expect(config).toMatchObject({
      valkey: { cluster: true },
      partitions: { numFlowPartitions: 1024 },
      maxCascadeDepth: 0,
      restartDelaySeconds: 900,
      edition: 14,
    });
  });

  it("lists all errors at once", () => {
    const errors = errorsOf({
      VALKEY_URL: "http://127.0.0.1",
      VALKEY_CLUSTER_MODE: "yes",
      FLOW_PARTITIONS: "0",
      MAX_CASCADE_DEPTH: "-1",
      LIBRARY_EDITION: "12",
    });
    expect(errors).toHaveLength(6);
    for (const name of [
      "VALKEY_URL",
      "VALKEY_CLUSTER_MODE",
      "COMPLETIONS_QUEUE_URL",
      "FLOW_PARTITIONS",
      "MAX_CASCADE_DEPTH",
      "LIBRARY_EDITION",
    ]) {
      expect(errors.filter((error) => error.startsWith(name))).toHaveLength(1);
    }
  });

  it.each([
    ["VALKEY_CLUSTER_MODE", "TRUE"],
    ["FLOW_PARTITIONS", "65537"],
    ["FLOW_PARTITIONS", "1e3"],
    ["FLOW_PARTITIONS", "12.5"],
    ["MAX_CASCADE_DEPTH", "ten"],
    ["LIBRARY_EDITION", "11.0"],
    ["CASCADE_RESTART_SECONDS", "901"],
    ["COMPLETIONS_QUEUE_URL", "my-queue"],
    ["COMPLETIONS_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com"],
    ["COMPLETIONS_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/1/q?x"],
    ["COMPLETIONS_QUEUE_URL", "https://eu-west-1.console.aws.amazon.com/sqs/v3/home#/queues/q"],
    ["AWS_ENDPOINT_URL", "localhost:4566"],
    ["AWS_ENDPOINT_URL_SQS", "sqs"],
    ["POWERTOOLS_LOG_LEVEL", "WARNING"],
    ["POWERTOOLS_LOG_LEVEL", "verbose"],
    ["LOG_LEVEL", "20"],
    ["AWS_LAMBDA_LOG_LEVEL", "NOTICE"],
    ["VALKEY_URL", "redis://host/database"],
  ])("refuses %s=%s", (name, value) => {
    expect(errorsOf({ ...REQUIRED, [name]: value })).toEqual([expect.stringMatching(`^${name} `)]);
  });

  it.each([
    ["rediss://u:p,w@a:6380,b,[::1]:6381", "rediss://u:p,w@a:6380", ["b:6379", "[::1]:6381"]],
    ["redis://a,b:6380/0", "redis://a/0", ["b:6380"]],
    ["redis://[::1]:7000,[::2]:7000", "redis://[::1]:7000", ["[::2]:7000"]],
  ])("reads several nodes from %s", (VALKEY_URL, first, more) => {
    const { valkey } = readDispatchConfig({ ...REQUIRED, VALKEY_URL, VALKEY_CLUSTER_MODE: "true" });
    expect(valkey.url.href).toBe(new URL(first).href);
    expect(valkey.moreNodes?.map(nameOf)).toEqual(more);
  });

  it.each([
    "redis://a,",
    "redis://a,b:x",
    "redis://a,,b",
    "redis://a,redis://b",
    "redis://a,b c",
    "redis://,a",
  ])("refuses the nodes of %s", (VALKEY_URL) => {
    const errors = errorsOf({ ...REQUIRED, VALKEY_URL, VALKEY_CLUSTER_MODE: "true" });
    expect(errors.length).toBeGreaterThan(0);
    for (const error of errors) expect(error).toMatch(/^VALKEY_URL /);
  });

  it("refuses several nodes without VALKEY_CLUSTER_MODE", () => {
    expect(errorsOf({ ...REQUIRED, VALKEY_URL: "redis://a,b" })).toEqual([
      expect.stringContaining("set VALKEY_CLUSTER_MODE=true"),
    ]);
  });

  it("refuses a database number for a cluster", () => {
    const errors = errorsOf({ ...REQUIRED, VALKEY_URL: "redis://h/1", VALKEY_CLUSTER_MODE: "true" });
    expect(errors).toEqual([expect.stringContaining("database")]);
  });

  it.each([
    "http://user:hunter2@h",
    "redis://default:hunter2/abc@host:6379",
    "redis://us/er:hunter2@h",
    "redis://u:hunter2%@h",
    "redis://u:x@h?hunter2",
    "redis://u:x@h#hunter2",
    "redis://u:hunter2#x@host:6379",
    "redis://:#hunter2@host:6379",
    "redis://u:12#hunter2@host:6379",
    "redis://u:hunter2@x@host:6379",
    "redis://u:x@hunter2/x@host:6379",
    "redis://u:hunter2?x@host:6379",
  ])("refuses %s with advice on escapes, and without showing a password", (url) => {
    const errors = errorsOf({ ...REQUIRED, VALKEY_URL: url });
    expect(errors).toEqual([expect.stringMatching(/^VALKEY_URL .*%/)]);
    expect(errors.join()).not.toContain("hunter2");
    if (/[@#].*@/.test(url)) expect(errors.join()).toContain("write @ / ? # % as %40 %2F %3F %23 %25");
  });

  it("takes a password with escapes", () => {
    const url = `redis://u:${encodeURIComponent("p@ss/w?o#r%d")}@host:6379`;
    expect(errorsOf({ ...REQUIRED, VALKEY_URL: url })).toEqual([]);
  });

  it("refuses a dead-letter queue that is the completions queue: its letters would circulate", () => {
    const errors = errorsOf({ ...REQUIRED, DEAD_LETTER_QUEUE_URL: REQUIRED.COMPLETIONS_QUEUE_URL });
    expect(errors).toEqual([expect.stringContaining("name the same queue")]);
  });

  it("accepts database 0 for a cluster", () => {
    expect(errorsOf({ ...REQUIRED, VALKEY_URL: "redis://h:1/0", VALKEY_CLUSTER_MODE: "true" })).toEqual([]);
  });
});

describe.each([
  ["dispatch", readDispatchConfig, true],
  ["reconcile", readReconcileConfig, true],
  ["provision", readProvisionConfig, false],
  ["redrive, and the command line", readRedriveConfig, true],
  ["relay", readRelayConfig, true],
])("the configuration of %s", (_, read, usesQueues) => {
  const env = { ...REQUIRED, ...QUEUES };

  it("names every problem of the variables that all programs share", () => {
    expect(errorsOf(env, read)).toEqual([]);
    const shared = {
      POWERTOOLS_LOG_LEVEL: "WARNING",
      AWS_LAMBDA_LOG_LEVEL: "loud",
      AWS_ENDPOINT_URL: "localhost",
    };
    const errors = errorsOf({ ...env, ...shared }, read);
    expect(errors).toHaveLength(3);
    for (const name of Object.keys(shared)) expect(errors.join("\n")).toContain(`${name} is `);
    expect(errors.join()).toContain("expected one of TRACE, DEBUG, INFO, WARN, ERROR, CRITICAL, SILENT");
  });

  it(`${usesQueues ? "refuses" : "does not read the URL of"} a FIFO queue`, () => {
    const errors = errorsOf(
      { ...env, COMPLETIONS_QUEUE_URL: `${REQUIRED.COMPLETIONS_QUEUE_URL}.fifo` },
      read,
    );
    const reason = /^COMPLETIONS_QUEUE_URL names a FIFO queue.*deduplication/;
    expect(errors).toEqual(usesQueues ? [expect.stringMatching(reason)] : []);
  });
});

it.each([readDispatchConfig, readRedriveConfig])("%o refuses a dead-letter FIFO queue", (read) => {
  const errors = errorsOf(
    { ...REQUIRED, ...QUEUES, DEAD_LETTER_QUEUE_URL: `${QUEUES.DEAD_LETTER_QUEUE_URL}.fifo` },
    read,
  );
  expect(errors).toEqual([expect.stringMatching(/^DEAD_LETTER_QUEUE_URL names a FIFO queue/)]);
});

describe("readLogLevel", () => {
  const levelOf = (env: Environment) => {
    const errors: string[] = [];
    const level = readLogLevel(env, errors);
    expect(errors).toEqual([]);
    return level;
  };

  it.each(LOG_LEVELS)("reads %s in any case", (level) => {
    for (const text of [level, level.toLowerCase(), ` ${level} `]) {
      expect(levelOf({ POWERTOOLS_LOG_LEVEL: text })).toBe(level);
      expect(levelOf({ LOG_LEVEL: text })).toBe(level);
      expect(levelOf({ AWS_LAMBDA_LOG_LEVEL: text })).toBe(level);
    }
  });

  it.each([
    [{}, undefined],
    [{ POWERTOOLS_LOG_LEVEL: "" }, undefined],
    [{ POWERTOOLS_LOG_LEVEL: "error", LOG_LEVEL: "loud" }, "ERROR"],
    [{ POWERTOOLS_LOG_LEVEL: "DEBUG", AWS_LAMBDA_LOG_LEVEL: "WARN" }, "WARN"],
    [{ POWERTOOLS_LOG_LEVEL: "ERROR", AWS_LAMBDA_LOG_LEVEL: "WARN" }, "ERROR"],
    [{ AWS_LAMBDA_LOG_LEVEL: "FATAL" }, "CRITICAL"],
  ])("of %j is %s", (env, level) => {
    expect(levelOf(env)).toBe(level);
  });
});

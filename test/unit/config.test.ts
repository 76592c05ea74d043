import { describe, expect, it } from "vitest";
import { readDispatchConfig } from "#functions/dispatch/config.ts";
import { ConfigurationError } from "#shared/errors.ts";

const REQUIRED = {
  VALKEY_URL: "redis://127.0.0.1:6379",
  COMPLETIONS_QUEUE_URL: "https://sqs.eu-west-1.amazonaws.com/123456789012/completions",
};

function errorsOf(env: Record<string, string>): readonly string[] {
  try {
    readDispatchConfig(env);
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
      LIBRARY_EDITION: "14",
    });
    expect(config.valkey.url).toMatchObject({ protocol: "rediss:", username: "user", password: "p%40ss" });
    expect(config).toMatchObject({
      valkey: { cluster: true },
      partitions: { numFlowPartitions: 1024 },
      maxCascadeDepth: 0,
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
    ["COMPLETIONS_QUEUE_URL", "my-queue"],
    ["VALKEY_URL", "redis://host/database"],
  ])("refuses %s=%s", (name, value) => {
    expect(errorsOf({ ...REQUIRED, [name]: value })).toEqual([expect.stringMatching(`^${name} `)]);
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
  ])("refuses %s without showing a password", (url) => {
    const errors = errorsOf({ ...REQUIRED, VALKEY_URL: url });
    expect(errors).toEqual([expect.stringMatching(/^VALKEY_URL /)]);
    expect(errors.join()).not.toContain("hunter2");
  });

  it("accepts database 0 for a cluster", () => {
    expect(errorsOf({ ...REQUIRED, VALKEY_URL: "redis://h:1/0", VALKEY_CLUSTER_MODE: "true" })).toEqual([]);
  });
});

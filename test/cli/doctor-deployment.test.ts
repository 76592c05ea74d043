/** `sluice doctor` on queues and functions: a healthy deployment, and one planted trouble for each code. */

import { SendMessageCommand } from "@aws-sdk/client-sqs";
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { startTestStack } from "#local/test-stack.ts";
import type { FindingCode } from "#operate/doctor/codes.ts";
import { diagnose, HealthyAws, type HealthyValkey, startHealthyValkey } from "#test/cli/doctor-bed.ts";
import { FakeElastiCacheApi } from "#test/support/fake-elasticache-api.ts";
import type { FakeFunction, FakeMapping } from "#test/support/fake-lambda-api.ts";

const START_TIMEOUT = 60_000;
const PARTITIONS = 256;

describe.each(["standalone", "cluster"] as const)("sluice doctor on queues and functions (%s)", (kind) => {
  let valkey: HealthyValkey;
  let aws: HealthyAws;
  beforeAll(async () => {
    [valkey, aws] = await Promise.all([startHealthyValkey(kind, PARTITIONS), HealthyAws.start(PARTITIONS)]);
  }, START_TIMEOUT);
  afterAll(async () => {
    await Promise.all([valkey[Symbol.asyncDispose](), aws[Symbol.asyncDispose]()]);
  });
  beforeEach(() => {
    // The AWS SDK reads its settings from the process.
    for (const [name, value] of Object.entries(aws.sdkEnvironment)) vi.stubEnv(name, value);
    return () => vi.unstubAllEnvs();
  });

  const diagnosis = (variables: Record<string, string>) =>
    diagnose({ ...valkey.environment, ...aws.sdkEnvironment, ...variables });

  function functionOf(part: string): FakeFunction {
    const one = aws.lambda.functions.get(aws.nameOf(part));
    if (one === undefined) throw new Error(`no function ${part}`);
    return one;
  }

  /** The mapping of dispatch, or of the worker. */
  function mappingOf(part: "dispatch" | "worker-images"): FakeMapping {
    const found = aws.lambda.mappings.find(({ FunctionArn }) => FunctionArn.endsWith(aws.nameOf(part)));
    if (found === undefined) throw new Error(`no mapping of ${part}`);
    return found;
  }

  it("finds nothing in a healthy deployment, and checks everything", async () => {
    const { output } = await diagnosis(await aws.deploy());
    expect(output.findings).toEqual([]);
    expect(output.checks.filter(({ status }) => status !== "ok").map(({ name }) => name)).toEqual([
      "elasticache",
    ]);
    expect(output.checks.map(({ name }) => name)).toEqual(
      expect.arrayContaining(["queues", "redrive", "triggers", "visibility", "functions", "concurrency"]),
    );
  });

  it("does not look for functions where there is no Lambda", async () => {
    const variables = await aws.deploy();
    const { output, reasonOf } = await diagnosis({ ...variables, AWS_ENDPOINT_URL_LAMBDA: "" });
    expect(output.findings).toEqual([]);
    expect(reasonOf("triggers")).toContain("AWS_ENDPOINT_URL_LAMBDA");
    expect(reasonOf("queues")).toBeUndefined();
  });

  describe("reports", () => {
    it("a queue that does not exist", async () => {
      const variables = await aws.deploy();
      const url = `${variables.COMPLETIONS_QUEUE_URL}-gone`;
      const { finding } = await diagnosis({ ...variables, COMPLETIONS_QUEUE_URL: url });
      expect(finding("queue_missing")?.where).toBe(url);
    });

    it("an SQS that does not answer", async () => {
      const variables = await aws.deploy();
      const closed = "http://127.0.0.1:1";
      vi.stubEnv("AWS_ENDPOINT_URL_SQS", closed);
      const moved = Object.fromEntries(
        Object.entries(variables).map(([name, value]) => [
          name,
          value.replaceAll(String(aws.sdkEnvironment.AWS_ENDPOINT_URL_SQS), closed),
        ]),
      );
      expect((await diagnosis(moved)).codes).toEqual(["queue_unreachable"]);
    });

    it("queues without a redrive policy", async () => {
      const none = { RedrivePolicy: "" };
      const { codes, output } = await diagnosis(await aws.deploy({ completions: none, ready: none }));
      expect(codes).toEqual(["redrive_missing"]);
      expect(output.findings).toHaveLength(2);
    });

    it("a redrive policy that names another queue", async () => {
      const variables = await aws.deploy();
      const { READY_QUEUES: ready = "" } = variables;
      const other = String(JSON.parse(ready).images).replace(/images$/, "dead-letters");
      const { codes } = await diagnosis({ ...variables, DEAD_LETTER_QUEUE_URL: other });
      expect(codes).toEqual(["redrive_elsewhere"]);
    });

    it("a low maxReceiveCount", async () => {
      const variables = await aws.deploy();
      const arn = await aws.arnOf(String(variables.DEAD_LETTER_QUEUE_URL));
      const policy = JSON.stringify({ deadLetterTargetArn: arn, maxReceiveCount: 4 });
      const changed = await aws.deploy({ completions: { RedrivePolicy: policy } });
      const { codes } = await diagnosis({
        ...changed,
        DEAD_LETTER_QUEUE_URL: String(variables.DEAD_LETTER_QUEUE_URL),
      });
      expect(codes).toEqual(["redrive_early"]);
    });

    it("a dead-letter queue that refuses its source", async () => {
      const policy = JSON.stringify({ redrivePermission: "denyAll" });
      const { codes } = await diagnosis(await aws.deploy({ deadLetters: { RedriveAllowPolicy: policy } }));
      expect(codes).toEqual(["redrive_refused"]);
    });

    it("a dead-letter queue that keeps messages no longer than its source", async () => {
      const { codes, output } = await diagnosis(
        await aws.deploy({
          deadLetters: { MessageRetentionPeriod: "345600" },
          readyDeadLetters: { MessageRetentionPeriod: "60" },
        }),
      );
      expect(codes).toEqual(["dead_letter_retention"]);
      expect(output.findings).toHaveLength(2);
    });

    it("a queue that is not encrypted", async () => {
      const { codes } = await diagnosis(await aws.deploy({ ready: { SqsManagedSseEnabled: "false" } }));
      expect(codes).toEqual(["queue_unencrypted"]);
      const withKey = { SqsManagedSseEnabled: "false", KmsMasterKeyId: "alias/own" };
      expect((await diagnosis(await aws.deploy({ ready: withKey }))).codes).toEqual([]);
    });

    it("dead letters, of completions and of a lane", async () => {
      const variables = await aws.deploy();
      const lane = String(JSON.parse(String(variables.READY_QUEUES)).images);
      for (const url of [
        String(variables.DEAD_LETTER_QUEUE_URL),
        lane.replace(/ready-images$/, "ready-dead-letters"),
      ]) {
        await aws.client.send(new SendMessageCommand({ QueueUrl: url, MessageBody: "a dead letter" }));
      }
      const { codes, output } = await diagnosis(variables);
      expect(codes).toEqual(["dead_letters_present"]);
      expect(output.findings.map(({ what }) => what)).toEqual(["about 1 messages", "about 1 messages"]);
    });

    it("a visibility timeout below six function timeouts and the batching window", async () => {
      const { codes, finding } = await diagnosis(
        await aws.deploy({ completions: { VisibilityTimeout: "179" } }),
      );
      expect(codes).toEqual(["visibility_short"]);
      expect(finding("visibility_short")?.what).toContain("180 s are needed");
      const variables = await aws.deploy();
      mappingOf("dispatch").MaximumBatchingWindowInSeconds = 1;
      expect((await diagnosis(variables)).codes).toEqual(["visibility_short"]);
    });

    const PLANTED: readonly {
      readonly code: FindingCode;
      readonly title: string;
      plant(): void;
    }[] = [
      {
        code: "event_source_missing",
        title: "a completions queue without a function",
        plant: () => {
          aws.lambda.mappings = aws.lambda.mappings.filter((one) => one !== mappingOf("dispatch"));
        },
      },
      {
        code: "event_source_disabled",
        title: "a disabled mapping",
        plant: () => Object.assign(mappingOf("dispatch"), { State: "Disabled" }),
      },
      {
        code: "event_source_failing",
        title: "a mapping with a problem",
        plant: () =>
          Object.assign(mappingOf("dispatch"), { LastProcessingResult: "PROBLEM: Function call failed" }),
      },
      {
        code: "event_source_whole_batches",
        title: "a mapping without partial batch responses",
        plant: () => Object.assign(mappingOf("worker-images"), { FunctionResponseTypes: [] }),
      },
      {
        code: "event_source_several",
        title: "two functions on one queue",
        plant: () => {
          const other = mappingOf("worker-images");
          functionOf("worker-images").configuration.Timeout = 30;
          aws.lambda.mappings.push({
            ...mappingOf("dispatch"),
            UUID: "other",
            FunctionArn: other.FunctionArn,
          });
        },
      },
      {
        code: "function_missing",
        title: "a reconciler that does not exist",
        plant: () => void aws.lambda.functions.delete(aws.nameOf("reconcile")),
      },
      {
        code: "function_not_active",
        title: "a function that cannot start",
        plant: () => Object.assign(functionOf("dispatch").configuration, { State: "Failed" }),
      },
      {
        code: "function_not_active",
        title: "a function whose update failed",
        plant: () => Object.assign(functionOf("reconcile").configuration, { LastUpdateStatus: "Failed" }),
      },
      {
        code: "function_stopped",
        title: "a function with a reserved concurrency of 0",
        plant: () => Object.assign(functionOf("reconcile"), { reserved: 0 }),
      },
      {
        code: "function_loop_detection",
        title: "loop detection of dispatch",
        plant: () => Object.assign(functionOf("dispatch"), { recursiveLoop: "Terminate" }),
      },
      {
        code: "function_loop_detection",
        title: "loop detection of a worker",
        plant: () => Object.assign(functionOf("worker-images"), { recursiveLoop: "Terminate" }),
      },
      {
        code: "function_settings_differ",
        title: "a worker with other ready queues",
        plant: () =>
          Object.assign(functionOf("worker-images").configuration, {
            Environment: { Variables: { READY_QUEUES: "{}" } },
          }),
      },
      {
        code: "function_settings_differ",
        title: "functions with another partition count than this command",
        plant: () => {
          for (const part of ["dispatch", "reconcile", "worker-images"]) {
            const { configuration } = functionOf(part);
            configuration.Environment = { Variables: { FLOW_PARTITIONS: "128" } };
          }
        },
      },
      {
        code: "concurrency_unlimited",
        title: "a queue that starts any number of invocations",
        plant: () => Object.assign(mappingOf("dispatch"), { ScalingConfig: undefined }),
      },
      {
        code: "concurrency_reserved_low",
        title: "a reserved concurrency below the maximum",
        plant: () => Object.assign(functionOf("dispatch"), { reserved: 5 }),
      },
      {
        code: "concurrency_account_low",
        title: "an account with a low limit",
        plant: () => {
          aws.lambda.unreservedConcurrency = 39;
        },
      },
      {
        code: "credentials_missing",
        title: "credentials that AWS does not accept, once",
        plant: () => void aws.lambda.denied.add("*"),
      },
    ];

    it.each(PLANTED)("$title: $code", async ({ code, plant }) => {
      const variables = await aws.deploy();
      plant();
      const { codes, output } = await diagnosis(variables);
      expect(codes).toEqual([code]);
      expect(output.findings).toHaveLength(1);
    });

    it.each([
      "lambda:ListEventSourceMappings",
      "lambda:GetAccountSettings",
      "lambda:GetFunctionConfiguration",
      "lambda:GetFunctionRecursionConfig",
      "lambda:GetFunctionConcurrency",
    ])("the missing permission %s, and checks the rest", async (action) => {
      const variables = await aws.deploy({ completions: { SqsManagedSseEnabled: "false" } });
      aws.lambda.denied.add(action);
      const { codes, finding } = await diagnosis(variables);
      expect(codes.toSorted()).toEqual(["permission_missing", "queue_unencrypted"]);
      expect(finding("permission_missing")?.remedy).toContain(`allow ${action}`);
    });

    it("credentials and a region that are not set, once", async () => {
      const variables = await aws.deploy();
      for (const name of ["AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
        vi.stubEnv(name, undefined);
      // No profile and no instance may replace them.
      vi.stubEnv("AWS_CONFIG_FILE", "/dev/null");
      vi.stubEnv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
      vi.stubEnv("AWS_EC2_METADATA_DISABLED", "true");
      const { codes, output } = await diagnosis(variables);
      expect(output.findings.map(({ code, what }) => [code, what])).toEqual([
        ["credentials_missing", expect.any(String)],
      ]);
      expect(codes).toEqual(["credentials_missing"]);
    });

    it("environment variables that the caller cannot decrypt", async () => {
      const variables = await aws.deploy();
      functionOf("dispatch").configuration.Environment = {
        Error: { ErrorCode: "AccessDeniedException", Message: "no access to the key" },
      };
      const { codes, finding } = await diagnosis(variables);
      expect(codes).toEqual(["permission_missing"]);
      expect(finding("permission_missing")?.remedy).toContain("kms:Decrypt");
    });
  });

  describe("of a replication group", () => {
    const GROUP = { VALKEY_REPLICATION_GROUP: "sluice-group" };
    /** A FAKE of ElastiCache's API, with one replication group. */
    async function describedAs(elements: string, status = 200) {
      const asked: string[] = [];
      await using fake = await FakeElastiCacheApi.start((query) => {
        asked.push(query.get("ReplicationGroupId") ?? "");
        return { status, body: elements };
      });
      const found = await diagnosis({ ...GROUP, AWS_ENDPOINT_URL_ELASTICACHE: fake.endpoint });
      expect(asked).toEqual(["sluice-group"]);
      return found;
    }

    it("accepts synchronous durability with failover", async () => {
      const { codes, reasonOf } = await describedAs(
        "<Durability>default</Durability><EffectiveDurability>sync</EffectiveDurability>" +
          "<AutomaticFailover>enabled</AutomaticFailover>",
      );
      expect(codes).toEqual([]);
      expect(reasonOf("elasticache")).toBeUndefined();
    });

    it.each(["async", "disabled"])("reports %s durability", async (durability) => {
      const { codes } = await describedAs(`<EffectiveDurability>${durability}</EffectiveDurability>`);
      expect(codes).toEqual(["durability_off"]);
    });

    it("reports disabled failover, and says that it does not know the durability", async () => {
      const { codes, reasonOf } = await describedAs("<AutomaticFailover>disabled</AutomaticFailover>");
      expect(codes).toEqual(["failover_off"]);
      expect(reasonOf("elasticache")).toContain("does not contain it");
    });

    it("reports the missing permission", async () => {
      const { codes, finding } = await describedAs(
        "<Error><Code>AccessDenied</Code><Message>no</Message></Error>",
        403,
      );
      expect(codes).toEqual(["permission_missing"]);
      expect(finding("permission_missing")?.remedy).toContain("elasticache:DescribeReplicationGroups");
    });
  });

  it("accepts a serial lane: reserved concurrency 1 and no maximum", async () => {
    const variables = await aws.deploy();
    functionOf("worker-images").reserved = 1;
    Object.assign(mappingOf("worker-images"), { ScalingConfig: undefined });
    expect((await diagnosis(variables)).codes).toEqual([]);
  });

  it("accepts a lane whose workers are containers", async () => {
    const variables = await aws.deploy();
    aws.lambda.mappings = [mappingOf("dispatch")];
    expect((await diagnosis(variables)).codes).toEqual([]);
  });
});

describe("sluice doctor on the embedded stack", () => {
  it("finds nothing, and says what does not apply there and why", async () => {
    await using stack = await startTestStack({ lanes: ["default"] });
    for (const [name, value] of Object.entries(stack.environment)) vi.stubEnv(name, value);
    try {
      await stack.submit({
        name: "nightly",
        tasks: [{ id: "fetch" }, { id: "clean", dependsOn: ["fetch"] }],
      });
      const { output, reasonOf } = await diagnose(stack.environment);
      expect(output.findings).toEqual([]);
      const made = output.checks.filter(({ status }) => status === "ok").map(({ name }) => name);
      expect(made).toEqual(
        expect.arrayContaining([
          "valkey",
          "library",
          "partitions",
          "clock",
          "indexes",
          "queues",
          "encryption",
        ]),
      );
      for (const name of ["durability", "memory", "reconciler", "redrive"]) {
        expect(reasonOf(name)).toContain("local");
      }
      expect(reasonOf("functions")).toContain("not on AWS");
      expect(reasonOf("elasticache")).toContain("VALKEY_REPLICATION_GROUP");
    } finally {
      vi.unstubAllEnvs();
    }
  });
});

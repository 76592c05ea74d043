/** What each worker lane gets. */

import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { defineTask } from "#sdk/kit/define-task.ts";
import { lambdaWorker } from "#sdk/kit/lambda-worker.ts";
import { accessOf } from "#test/auth/secured.ts";
import { idOf, KEY, type Packaged, WITH_LANES } from "#test/deploy/names.ts";
import { actionsOn } from "#test/deploy/suites/roles.ts";
import { at, listOf, type Template } from "#test/deploy/template.ts";
import { readZip } from "#test/deploy/zip.ts";

const DAY_SECONDS = 86_400;
const NO_VALUE = { Ref: "AWS::NoValue" };
const FIXTURES = new URL("../../fixtures/lanes/", import.meta.url);

/** The lanes of the fixture, and what must follow from their settings. */
const LANES = [
  {
    lane: "images",
    suffix: "Images",
    id: "images",
    timeout: 120,
    memory: 1_769,
    batchSize: 5,
    scaling: { MaximumConcurrency: 20 },
    reserved: undefined,
  },
  {
    lane: 'GPU: large "tiles"',
    suffix: "GpuLarge",
    id: "gpu-large",
    timeout: 360,
    memory: 512,
    batchSize: 10,
    scaling: { MaximumConcurrency: 10 },
    reserved: undefined,
  },
  {
    lane: "ledger",
    suffix: "Ledger",
    id: "ledger",
    timeout: 360,
    memory: 512,
    batchSize: 1,
    scaling: undefined,
    reserved: 1,
  },
] as const;
/** A lane whose tasks run in containers. */
const CONTAINERS = { lane: "video", suffix: "Video" };
const QUEUES = [...LANES, CONTAINERS];
const URLS = {
  "Fn::Sub": JSON.stringify(
    Object.fromEntries(QUEUES.map(({ lane, suffix }) => [lane, `\${LaneQueue${suffix}}`])),
  ),
};

export function lanes(packaged: Packaged): void {
  describe.each(WITH_LANES)("%s", (variant) => {
    let template: Template;
    const isOwn = variant === "lanes";
    const stage = isOwn ? "staging-of-tea" : "prod";
    beforeAll(() => {
      template = packaged().template(variant);
    });

    describe.each(LANES)("$lane", ({ suffix, id, timeout, memory, batchSize, scaling, reserved }) => {
      const worker = `Worker${suffix}LambdaFunction`;
      const arnOf = (resource: string) => ({ "Fn::GetAtt": [resource, "Arn"] });

      it("is run by a function that may call itself through its queue", () => {
        expect(template.property(worker)).toMatchObject({
          FunctionName: `sluice-${stage}-worker-${id}`,
          Handler: `dist/lanes/${stage}/${id}/index.handler`,
          Runtime: "nodejs24.x",
          Architectures: ["arm64"],
          Timeout: timeout,
          MemorySize: memory,
          RecursiveLoop: "Allow",
          Role: arnOf(`LaneRole${suffix}`),
          KmsKeyArn: isOwn ? NO_VALUE : `${KEY}environment`,
        });
        expect(template.property(worker, "ReservedConcurrentExecutions")).toBe(reserved);
        expect(template.resource(worker, "DependsOn")).toContain("ValkeyLibrary");
        expect(template.property(worker, "VpcConfig")).toEqual(
          template.property(idOf("dispatch"), "VpcConfig"),
        );
        expect(template.property(`Worker${suffix}LogGroup`, "KmsKeyId")).toEqual(
          isOwn ? NO_VALUE : `${KEY}logs`,
        );
      });

      it("has an artifact with the files of its folder", async () => {
        const files = readZip(await packaged().artifact(variant, `worker${suffix}`));
        expect([...files.keys()]).toEqual([`dist/lanes/${stage}/${id}/index.mjs`]);
        expect(files.get(`dist/lanes/${stage}/${id}/index.mjs`)?.toString("utf8")).toBe(
          readFileSync(new URL("worker/index.mjs", FIXTURES), "utf8"),
        );
      });

      it("is triggered by its ready queue, in batches with partial failure responses", () => {
        const mappings = template
          .idsOf("AWS::Lambda::EventSourceMapping")
          .filter((one) => String(at(template.property(one, "FunctionName"), "Fn::GetAtt", 0)) === worker);
        expect(mappings).toHaveLength(1);
        expect(template.property(mappings[0] ?? "")).toMatchObject({
          EventSourceArn: arnOf(`LaneQueue${suffix}`),
          BatchSize: batchSize,
          FunctionResponseTypes: ["ReportBatchItemFailures"],
        });
        expect(template.property(mappings[0] ?? "", "ScalingConfig")).toEqual(scaling);
      });

      it("has a ready queue and a dead-letter queue, both encrypted and without plain HTTP", () => {
        const queue = template.property(`LaneQueue${suffix}`);
        expect(queue).toMatchObject({
          QueueName: `sluice-${stage}-ready-${id}`,
          MessageRetentionPeriod: 4 * DAY_SECONDS,
          RedrivePolicy: {
            deadLetterTargetArn: arnOf(`LaneDeadLetterQueue${suffix}`),
            maxReceiveCount: 100,
          },
        });
        expect(Number(at(queue, "VisibilityTimeout"))).toBeGreaterThanOrEqual(6 * timeout);
        const source = `arn:\${AWS::Partition}:sqs:\${AWS::Region}:\${AWS::AccountId}:${at(queue, "QueueName")}`;
        expect(template.property(`LaneDeadLetterQueue${suffix}`)).toMatchObject({
          MessageRetentionPeriod: 14 * DAY_SECONDS,
          RedriveAllowPolicy: { redrivePermission: "byQueue", sourceQueueArns: [{ "Fn::Sub": source }] },
        });
        for (const name of [`LaneQueue${suffix}`, `LaneDeadLetterQueue${suffix}`]) {
          expect(template.property(name)).toMatchObject(
            isOwn
              ? { KmsMasterKeyId: NO_VALUE, SqsManagedSseEnabled: true }
              : { KmsMasterKeyId: `${KEY}queues`, SqsManagedSseEnabled: NO_VALUE },
          );
          const policies = template
            .idsOf("AWS::SQS::QueuePolicy")
            .map((policy) => template.property(policy))
            .filter((policy) => at(policy, "Queues", 0, "Ref") === name);
          expect(policies).toMatchObject([
            {
              PolicyDocument: {
                Statement: [
                  {
                    Effect: "Deny",
                    Principal: "*",
                    Action: "sqs:*",
                    Resource: arnOf(name),
                    Condition: { Bool: { "aws:SecureTransport": "false" } },
                  },
                ],
              },
            },
          ]);
        }
      });

      it("has a role that consumes its own queue, and sends to the ready queues and to dispatch", () => {
        const statements = listOf(template.property(`LaneRole${suffix}`, "Policies"))
          .flatMap((policy) => listOf(at(policy, "PolicyDocument", "Statement")))
          .filter((statement) => /sqs:/.test(JSON.stringify(statement)));
        expect(statements).toEqual([
          {
            Effect: "Allow",
            Action: [
              "sqs:ReceiveMessage",
              "sqs:DeleteMessage",
              "sqs:ChangeMessageVisibility",
              "sqs:GetQueueAttributes",
            ],
            Resource: arnOf(`LaneQueue${suffix}`),
          },
          { Effect: "Allow", Action: "sqs:SendMessage", Resource: arnOf("CompletionsQueue") },
          {
            Effect: "Allow",
            Action: ["sqs:SendMessage"],
            Resource: QUEUES.map((other) => arnOf(`LaneQueue${other.suffix}`)),
          },
        ]);
        const role = `LaneRole${suffix}`;
        expect(actionsOn(template, role, `${KEY}queues`)).toEqual(
          isOwn ? [] : ["kms:GenerateDataKey", "kms:Decrypt"],
        );
        expect(template.property(role, "ManagedPolicyArns")).toEqual(
          id === "images" ? ["arn:aws:iam::123456789012:policy/thumbnails"] : undefined,
        );
      });

      it("connects to Valkey as its own user, or else as the user of the existing Valkey", () => {
        const user = template.environment(worker).VALKEY_USER;
        const policies = JSON.stringify(template.property(`LaneRole${suffix}`, "Policies"));
        if (!isOwn) {
          expect(user).toBe("sluice");
          expect(policies).toContain(":user:sluice");
          return;
        }
        const name = `LaneUser${suffix}`;
        expect(user).toEqual({ Ref: name });
        expect(template.property(name)).toMatchObject({
          AuthenticationMode: { Type: "iam" },
          UserName: template.property(name, "UserId"),
          AccessString: accessOf("worker").join(" "),
        });
        expect(template.property("ValkeyUsers", "UserIds")).toContainEqual({ Ref: name });
        expect(policies).toContain(JSON.stringify(arnOf(name)));
        // A lane that is removed and comes back creates it again.
        expect(template.resource(name, "DeletionPolicy")).toBeUndefined();
        // Their user group cannot change two users at once.
        const before = LANES[LANES.findIndex((one) => one.suffix === suffix) - 1];
        expect(template.resource(name, "DependsOn")).toContain(
          before === undefined ? "OperateWriteUser" : `LaneUser${before.suffix}`,
        );
      });

      it("has alarms on dead letters, the oldest message, errors and, unless it is serial, throttles", () => {
        const alarms = template
          .idsOf("AWS::CloudWatch::Alarm")
          .map((alarm) => template.property(alarm))
          .filter((alarm) =>
            [
              `\${LaneQueue${suffix}.QueueName}`,
              `\${LaneDeadLetterQueue${suffix}.QueueName}`,
              `\${${worker}}`,
            ].includes(String(at(alarm, "Dimensions", 0, "Value", "Fn::Sub"))),
          )
          .map((alarm) => [at(alarm, "MetricName"), at(alarm, "Threshold"), at(alarm, "EvaluationPeriods")]);
        expect(alarms).toEqual([
          ["ApproximateNumberOfMessagesVisible", 0, 1],
          ["ApproximateAgeOfOldestMessage", 300 + timeout, 1],
          ["Errors", 0, 1],
          ...(reserved === undefined ? [["Throttles", 0, 5]] : []),
        ]);
      });

      it("sets the variables that a worker reads, and no other", () => {
        const environment = template.environment(worker);
        const reads = new Set<string>();
        const recorded = new Proxy<Record<string, string>>(
          { ...placeholders(environment), AWS_REGION: "us-east-1" },
          {
            get: (target, name) => {
              reads.add(String(name));
              return Reflect.get(target, name);
            },
          },
        );
        const lane = LANES.find((one) => one.suffix === suffix)?.lane ?? "";
        const task = defineTask({ kind: "k", lane, run: () => null });
        // It throws if a variable is missing or wrong.
        lambdaWorker({ tasks: [task], environment: recorded });
        const others = ["NODE_OPTIONS", "POWERTOOLS_LOG_LEVEL", "BUCKET", "VALKEY_SECRET"];
        const set = Object.keys(environment).filter((name) => !others.includes(name));
        expect(set.filter((name) => !reads.has(name))).toEqual([]);
        expect(environment.READY_QUEUES).toEqual(URLS);
        expect(environment.BUCKET).toBe(id === "images" ? "thumbnails" : undefined);
      });
    });

    it("lets dispatch and reconcile send to every ready queue, whose URLs they know", () => {
      const queues = QUEUES.map(({ suffix }) => ({ "Fn::GetAtt": [`LaneQueue${suffix}`, "Arn"] }));
      const actions = (role: string) =>
        listOf(template.property(role, "Policies"))
          .filter((policy) => at(policy, "PolicyName") === "ready-queues")
          .flatMap((policy) => listOf(at(policy, "PolicyDocument", "Statement")));
      expect(actions("DispatchRole")).toEqual([
        { Effect: "Allow", Action: ["sqs:SendMessage"], Resource: queues },
      ]);
      expect(actions("ReconcileRole")).toEqual([
        { Effect: "Allow", Action: ["sqs:SendMessage", "sqs:GetQueueAttributes"], Resource: queues },
      ]);
      for (const name of ["dispatch", "reconcile"]) {
        expect(template.environment(idOf(name)).READY_QUEUES).toEqual(URLS);
      }
    });

    it("has an alarm on executions of an unknown kind, over all lanes", () => {
      expect(template.property("UnknownKindsAlarm", "Metrics")).toEqual([
        {
          Id: "unknown",
          Expression: `SELECT SUM("TaskKindsUnknown") FROM SCHEMA("Sluice", "kind", "lane", "service", "stage") WHERE "service" = 'worker' AND "stage" = '${stage}'`,
          Period: 60,
        },
      ]);
    });

    it("has an alarm on the dispatcher in the workers, which counts as the service worker", () => {
      expect(template.property("WorkerInvariantViolationAlarm")).toMatchObject({
        Namespace: "Sluice",
        MetricName: "InvariantViolations",
        Dimensions: [
          { Name: "service", Value: "worker" },
          { Name: "stage", Value: stage },
        ],
      });
    });

    it("keeps the code of the workers from changing network interfaces", () => {
      const roles = LANES.map(({ suffix }) =>
        JSON.stringify(template.property(`LaneRole${suffix}`, "Policies")),
      );
      for (const policies of roles) {
        for (const { id } of LANES) expect(policies).toContain(`:function:sluice-${stage}-worker-${id}"`);
      }
    });
  });

  it("gives a lane without an artifact a queue and a user, and no function", () => {
    const template = packaged().template("lanes");
    const ids = template.resources.map(([id]) => id).filter((id) => id.endsWith("Video"));
    expect(ids.sort()).toEqual([
      "LaneDeadLetterQueueVideo",
      "LaneDeadLettersAlarmVideo",
      "LaneOldestMessageAlarmVideo",
      "LanePolicyOfDeadLetterQueueVideo",
      "LanePolicyOfQueueVideo",
      "LaneQueueVideo",
      "LaneUserVideo",
    ]);
    expect(template.idsOf("AWS::Lambda::Function").filter((id) => id.includes("Video"))).toEqual([]);
    const outputs = Object.fromEntries(template.outputs());
    expect(at(outputs.LaneQueueUrlVideo, "Value")).toEqual({ Ref: "LaneQueueVideo" });
    expect(at(outputs.LaneValkeyUserVideo, "Value")).toEqual({ Ref: "LaneUserVideo" });
    expect(at(outputs.LaneValkeyUserImages, "Value")).toBeUndefined();
  });

  it("opens the endpoint of S3 in the stack's own VPC to the tasks", () => {
    const statementsOf = (variant: string) =>
      listOf(packaged().template(variant).property("S3Endpoint", "PolicyDocument", "Statement")).map((one) =>
        at(one, "Sid"),
      );
    expect(statementsOf("lanes")).toEqual(["ProvisionResponse", "OwnAccount"]);
    expect(statementsOf("prod")).toEqual(["ProvisionResponse"]);
  });

  it("adds nothing to a deployment without lanes", () => {
    const prod = packaged().template("prod");
    const ids = prod.resources.map(([id]) => id);
    expect(ids.filter((id) => /^(?:Lane|Worker)|UnknownKinds/.test(id))).toEqual([]);
    for (const name of ["dispatch", "reconcile"]) {
      expect(prod.environment(idOf(name)).READY_QUEUES).toBe("");
    }
    expect(JSON.stringify(prod.property("DispatchRole", "Policies"))).not.toContain("ready-queues");
  });
}

/** Valid values in place of those from CloudFormation. */
function placeholders(environment: Readonly<Record<string, unknown>>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(environment).map(([name, value]) => {
      if (name === "VALKEY_URL") return [name, "rediss://valkey.example.com:6379"];
      if (typeof value === "string") return [name, value];
      const url = "https://sqs.us-east-1.amazonaws.com/123456789012/queue";
      if (name === "READY_QUEUES") return [name, String(at(value, "Fn::Sub")).replaceAll(/\$\{\w+\}/g, url)];
      return [name, name.endsWith("_URL") ? url : "name"];
    }),
  );
}

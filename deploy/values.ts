/** Values from the code for the templates, so that both always agree. */

import { createHash } from "node:crypto";
import { librarySource } from "#lua/library.ts";
import { messageOf } from "#shared/errors.ts";
import rules from "#shared/valkey/access.json" with { type: "json" };
import { alarms } from "./alarms.ts";
import { dashboardBody } from "./dashboard.ts";
import { type LaneContext, laneFunctions, laneTemplate, sendToLanes } from "./lane-resources.ts";
import { type ReadyLane, readWorkerLanes, readyQueues } from "./lanes.ts";
import type { Deployment } from "./metrics.ts";

/** The ElastiCache access string for the user of each function. */
export const access = Object.fromEntries(
  Object.entries(rules).map(([functionName, words]) => [functionName, words.join(" ")]),
);

/** Changes with the library, so that a deployment loads it. Covers both editions, since either may be in use. */
export const libraryHash = hashOf(librarySource(11) + librarySource(14));

/** The argument of a function that osls calls for a variable. */
interface Variables {
  readonly resolveVariable: (variable: string) => Promise<unknown>;
}

/** The stage that is deployed to an emulator and never to AWS. */
const LOCAL_STAGE = "local";
const NO_VALUE = { Ref: "AWS::NoValue" };
/** The ElastiCache users in deploy/valkey/own.yml. */
const OWN_USERS = [
  "DispatchUser",
  "ReconcileUser",
  "ProvisionUser",
  "OperateReadUser",
  "OperateWriteUser",
  "DefaultUser",
];
/** The functions in the VPC. */
const VPC_FUNCTIONS = ["dispatch", "reconcile", "operate-read", "operate-write", "provision"];

/** The alarms and the dashboard, by logical id. */
export async function monitoring(variables: Variables): Promise<Record<string, unknown>> {
  const stage = await textOf(variables, "sls:stage");
  const name = `${await textOf(variables, "self:service")}-${stage}`;
  const isOwn = (await textOf(variables, "param:valkey")) === "own";
  const deployment: Deployment = {
    stage,
    oldestMessageSeconds: Number(await textOf(variables, "param:oldestMessageSeconds")),
    lanes: await lanesOf(variables),
    valkey: isOwn
      ? {
          shards: Number(await textOf(variables, "param:valkeyShards")),
          replicas: Number(await textOf(variables, "param:valkeyReplicas")),
        }
      : undefined,
  };
  return {
    ...alarms(deployment, await variables.resolveVariable("self:custom.alarmActions")),
    Dashboard: {
      Type: "AWS::CloudWatch::Dashboard",
      Properties: {
        DashboardName: name,
        DashboardBody: { "Fn::Sub": JSON.stringify(dashboardBody(deployment)) },
      },
    },
  };
}

/** The lanes with worker functions, and what other resources need of them. */
export async function workers(variables: Variables): Promise<Record<string, unknown>> {
  const lanes = await lanesOf(variables);
  const prefix = await prefixOf(variables);
  const urls = refusing(() => readyQueues(lanes, prefix));
  const context: LaneContext = {
    service: await textOf(variables, "self:service"),
    stage: await textOf(variables, "sls:stage"),
    valkeyIsOwn: (await textOf(variables, "param:valkey")) === "own",
    accessString: access.worker ?? "",
    readyQueues: urls,
    sendPolicy: sendToLanes(lanes, ["sqs:SendMessage"]),
  };
  return {
    functions: laneFunctions(lanes, context),
    template: laneTemplate(lanes, context),
    readyQueues: urls,
    sendPolicy: context.sendPolicy,
    // `sluice lanes` shows how much waits in them.
    readPolicy: sendToLanes(lanes, ["sqs:GetQueueAttributes"]),
    // The reconciler sends less while a queue holds many messages.
    reconcilePolicy: sendToLanes(lanes, ["sqs:SendMessage", "sqs:GetQueueAttributes"]),
    userIds: [...OWN_USERS, ...lanes.map(({ suffix }) => `LaneUser${suffix}`)].map((Ref) => ({ Ref })),
    functionArns: [
      ...VPC_FUNCTIONS,
      ...lanes.flatMap(({ id, worker }) => (worker === undefined ? [] : [`worker-${id}`])),
    ].map((name) => ({
      "Fn::Sub": `\${self:custom.arns.functions}-${name}`,
    })),
    // Tasks keep large results in S3. IAM decides what they may do there.
    s3Statements: ["provisionResponse", ...(lanes.length === 0 ? [] : ["ownAccount"])].map(
      (name) => `\${file(deploy/network/endpoint-policies.yml):${name}}`,
    ),
  };
}

async function lanesOf(variables: Variables): Promise<ReadyLane[]> {
  const path = await textOf(variables, "param:workerLanes");
  const prefix = await prefixOf(variables);
  return refusing(() => readWorkerLanes(path, prefix));
}

async function prefixOf(variables: Variables): Promise<string> {
  return `${await textOf(variables, "self:service")}-${await textOf(variables, "sls:stage")}`;
}

function refusing<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw refusal(messageOf(error));
  }
}

/** The parameter alarmTopic. Throws if a stage with alarms does not set it: unread alarms look like a healthy stage. */
export async function alarmTopic(variables: Variables): Promise<string> {
  const topic = await textOf(variables, "param:alarmTopic");
  if (topic !== "") return topic;
  if ((await textOf(variables, "param:monitoring")) === "none") return "none";
  throw refusal(
    "the parameter alarmTopic is not set: use own (with alarmEmail), existing (with alarmTopicArn), " +
      "or none for alarms that notify no one",
  );
}

/**
 * Changes with valkeyUrl. Throws if the URL contains a password: it would be readable in the template, in the bucket of
 * the stack and in the functions' configuration.
 */
export async function addressHash(variables: Variables): Promise<string> {
  const address = await textOf(variables, "param:valkeyUrl");
  const isDeployedToAws = (await textOf(variables, "sls:stage")) !== LOCAL_STAGE;
  if (isDeployedToAws && hasPassword(address)) {
    throw refusal(
      "valkeyUrl contains a password, which the template and the functions' configuration would show: " +
        "remove it and use valkeyAuth secret or iam",
    );
  }
  return hashOf(address);
}

function hasPassword(address: string): boolean {
  if (URL.canParse(address) && new URL(address).password !== "") return true;
  // A list of nodes, or a malformed URL: a colon before an @ may start a password.
  return address.split(",").some((node) => /^[^@]*:[^@]*@/.test(node.replace(/^\w+:\/\//, "")));
}

/** The replication group's property Durability. Engines before 9 do not have it; "disabled" is what they do. */
export async function durability(variables: Variables): Promise<unknown> {
  const value = await textOf(variables, "param:valkeyDurability");
  const major = Number.parseInt(await textOf(variables, "param:valkeyVersion"), 10);
  return value === "disabled" && major < 9 ? NO_VALUE : value;
}

/** The queue for messages about ended flows: its URL, and the policy of the function that sends to it. */
export async function flowEvents(variables: Variables): Promise<Record<string, unknown>> {
  const arn = await textOf(variables, "param:flowEventsQueueArn");
  if (arn === "") return { url: "", policy: NO_VALUE };
  const [, region, account, name] = /^arn:[\w-]+:sqs:([\w-]+):(\d{12}):([\w-]+)$/.exec(arn) ?? [];
  if (name === undefined) {
    throw refusal(
      "flowEventsQueueArn is not the ARN of a standard SQS queue: expected arn:aws:sqs:region:account:name",
    );
  }
  const statement = { Effect: "Allow", Action: ["sqs:SendMessage"], Resource: arn };
  return {
    url: { "Fn::Sub": `https://sqs.${region}.\${AWS::URLSuffix}/${account}/${name}` },
    policy: {
      PolicyName: "flow-events",
      PolicyDocument: { Version: "2012-10-17", Statement: [statement] },
    },
  };
}

/** Properties and policies for customer-managed keys. Without a key, the keys of AWS are used. */
export async function keys(variables: Variables): Promise<Record<string, unknown>> {
  const [queueKey, logKey, environmentKey, valkeyKey] = await Promise.all(
    ["param:queueKeyArn", "param:logKeyArn", "param:environmentKeyArn", "param:valkeyKeyArn"].map(
      (variable) => textOf(variables, variable),
    ),
  );
  return {
    queue: queueKey || NO_VALUE,
    usesSqsKey: queueKey === "" ? true : NO_VALUE,
    // Senders need GenerateDataKey, receivers Decrypt; SQS requires both of senders.
    queuePolicy: keyPolicy("queue-key", queueKey, ["kms:GenerateDataKey", "kms:Decrypt"]),
    receivePolicy: keyPolicy("queue-key", queueKey, ["kms:Decrypt"]),
    log: logKey || NO_VALUE,
    environment: environmentKey || NO_VALUE,
    environmentPolicy: keyPolicy("environment-key", environmentKey, ["kms:Decrypt"]),
    valkey: valkeyKey || NO_VALUE,
  };
}

function keyPolicy(name: string, key: string | undefined, actions: readonly string[]): unknown {
  if (!key) return NO_VALUE;
  const statement = { Effect: "Allow", Action: actions, Resource: key };
  return { PolicyName: name, PolicyDocument: { Version: "2012-10-17", Statement: [statement] } };
}

/** The property PermissionsBoundary of every role. */
export async function permissionsBoundary(variables: Variables): Promise<unknown> {
  return (await textOf(variables, "param:permissionsBoundaryArn")) || NO_VALUE;
}

/** An error without a stack trace, which osls would show to the user. */
function refusal(message: string): Error {
  const error = new Error(message);
  error.stack = "";
  return error;
}

async function textOf({ resolveVariable }: Variables, variable: string): Promise<string> {
  return String(await resolveVariable(variable));
}

function hashOf(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

/**
 * The CloudFormation resources of worker lanes: per lane a ready queue with its dead-letter queue, with the stack's own Valkey a
 * user, and a function with its role, unless containers run its tasks. No prefix of a logical id is the start of another one, so no two lanes can have the same.
 */

import { createHash } from "node:crypto";
import { packageLane, type ReadyLane, type WorkerFunction } from "./lanes.ts";

const DAY_SECONDS = 86_400;
/** AWS recommends a visibility timeout of six function timeouts, so that throttled batches do not become visible at once. */
const VISIBILITY_TIMEOUTS = 6;
/** High, since throttles and other messages of a batch count too. The number of reclaims ends an execution, not this one. */
const MAX_RECEIVES = 100;

/** What the resources of lanes have in common. Values like `${…}` are variables of osls. */
export interface LaneContext {
  readonly service: string;
  readonly stage: string;
  readonly valkeyIsOwn: boolean;
  /** ElastiCache's access string of a worker. */
  readonly accessString: string;
  readonly readyQueues: unknown;
  /** The policy that lets a worker send to all ready queues. */
  readonly sendPolicy: unknown;
}

const ref = (id: string) => ({ Ref: id });
const arn = (id: string) => ({ "Fn::GetAtt": [id, "Arn"] });
/** A variable of osls. */
const variable = (name: string): string => `\${${name}}`;
const value = (path: string): string => variable(`file(deploy/values.js):${path}`);
const custom = (path: string): string => variable(`self:custom.${path}`);

/** The osls functions of the lanes, by name. Copies their artifacts. */
export function laneFunctions(lanes: readonly ReadyLane[], context: LaneContext): Record<string, unknown> {
  return Object.fromEntries(
    lanes.flatMap((lane) =>
      lane.worker === undefined
        ? []
        : [[`worker${lane.suffix}`, laneFunction(lane, lane.worker, context)] as const],
    ),
  );
}

function laneFunction(
  { id, name, suffix, timeoutSeconds }: ReadyLane,
  worker: WorkerFunction,
  { stage, valkeyIsOwn, readyQueues }: LaneContext,
): unknown {
  const { functionName, memoryMegabytes, isSerial, batchSize, maximumConcurrency, environment } = worker;
  return {
    ...packageLane(id, worker, stage),
    name: functionName,
    description: `Runs the tasks of the lane ${name}`,
    role: `LaneRole${suffix}`,
    memorySize: memoryMegabytes,
    timeout: timeoutSeconds,
    vpc: custom("network.vpc, null"),
    // A chain of tasks in one lane is a loop by design: function, queue, function. Lambda's loop detection would stop it
    // after about 16 invocations. The graph limits it instead: it has no cycles.
    recursiveLoop: "Allow",
    dependsOn: "ValkeyLibrary",
    ...(isSerial ? { reservedConcurrency: 1 } : {}),
    environment: {
      ...environment,
      VALKEY_URL: custom("valkey.url"),
      VALKEY_CLUSTER_MODE: custom("valkey.clusterMode"),
      VALKEY_AUTH: custom("valkey.auth"),
      VALKEY_USER: valkeyIsOwn ? ref(`LaneUser${suffix}`) : custom("valkey.users.worker"),
      VALKEY_REPLICATION_GROUP: custom("valkey.replicationGroup"),
      VALKEY_SECRET: custom("valkey.secret"),
      VALKEY_CA: custom("valkey.ca"),
      FLOW_PARTITIONS: variable("param:flowPartitions"),
      SLUICE_STAGE: stage,
      LIBRARY_EDITION: variable("param:libraryEdition"),
      COMPLETIONS_QUEUE_URL: ref("CompletionsQueue"),
      READY_QUEUES: readyQueues,
    },
    events: [
      {
        sqs: {
          arn: arn(`LaneQueue${suffix}`),
          batchSize,
          functionResponseType: "ReportBatchItemFailures",
          ...(isSerial ? {} : { maximumConcurrency }),
        },
      },
    ],
  };
}

/** The template of the lanes, and the extensions of what osls creates. */
export function laneTemplate(lanes: readonly ReadyLane[], context: LaneContext): Record<string, unknown> {
  if (lanes.length === 0) return {};
  return {
    Resources: Object.assign(
      {},
      ...lanes.map((lane, index) => ({
        ...queuesOf(lane, context),
        ...(lane.worker === undefined
          ? {}
          : { [`LaneRole${lane.suffix}`]: roleOf(lane, lane.worker, context) }),
        ...(context.valkeyIsOwn
          ? // Sequential, since their user group cannot change two users at once.
            { [`LaneUser${lane.suffix}`]: userOf(lane, context, lanes[index - 1]) }
          : {}),
      })),
    ),
    extensions: Object.assign(
      {},
      ...lanes
        .filter(({ worker }) => worker !== undefined)
        .map(({ suffix }) => ({
          [`Worker${suffix}LogGroup`]: { Properties: { KmsKeyId: value("keys.log") } },
          [`Worker${suffix}LambdaFunction`]: { Properties: { KmsKeyArn: value("keys.environment") } },
        })),
    ),
    Outputs: Object.fromEntries(lanes.flatMap((lane) => outputsOf(lane, context))),
  };
}

/** What submitters need of a lane, and the containers that run its tasks. */
function outputsOf({ name, suffix, worker }: ReadyLane, { valkeyIsOwn }: LaneContext): [string, object][] {
  const queue = { Description: `The ready queue of the lane ${name}`, Value: ref(`LaneQueue${suffix}`) };
  const user = {
    Description: `The Valkey user of the containers of the lane ${name}`,
    Value: ref(`LaneUser${suffix}`),
  };
  return [
    [`LaneQueueUrl${suffix}`, queue],
    ...(worker === undefined && valkeyIsOwn ? [[`LaneValkeyUser${suffix}`, user] as [string, object]] : []),
  ];
}

function queuesOf({ id, suffix, timeoutSeconds }: ReadyLane, { service, stage }: LaneContext): object {
  const queueName = `${service}-${stage}-ready-${id}`;
  const encryption = { SqsManagedSseEnabled: value("keys.usesSqsKey"), KmsMasterKeyId: value("keys.queue") };
  const sourceArn = `arn:\${AWS::Partition}:sqs:\${AWS::Region}:\${AWS::AccountId}:${queueName}`;
  return {
    [`LaneQueue${suffix}`]: {
      Type: "AWS::SQS::Queue",
      Properties: {
        QueueName: queueName,
        ...encryption,
        MessageRetentionPeriod: 4 * DAY_SECONDS,
        VisibilityTimeout: VISIBILITY_TIMEOUTS * timeoutSeconds,
        RedrivePolicy: {
          deadLetterTargetArn: arn(`LaneDeadLetterQueue${suffix}`),
          maxReceiveCount: MAX_RECEIVES,
        },
      },
    },
    [`LaneDeadLetterQueue${suffix}`]: {
      Type: "AWS::SQS::Queue",
      Properties: {
        QueueName: `${queueName}-dead-letters`,
        ...encryption,
        // Longer than in the ready queue: retention counts from the time at which the message was first sent.
        MessageRetentionPeriod: 14 * DAY_SECONDS,
        RedriveAllowPolicy: { redrivePermission: "byQueue", sourceQueueArns: [{ "Fn::Sub": sourceArn }] },
      },
    },
    [`LanePolicyOfQueue${suffix}`]: refusePlainHttp(`LaneQueue${suffix}`),
    [`LanePolicyOfDeadLetterQueue${suffix}`]: refusePlainHttp(`LaneDeadLetterQueue${suffix}`),
  };
}

function refusePlainHttp(queue: string): object {
  return {
    Type: "AWS::SQS::QueuePolicy",
    Properties: {
      Queues: [ref(queue)],
      PolicyDocument: document({
        Sid: "RefusePlainHttp",
        Effect: "Deny",
        Principal: "*",
        Action: "sqs:*",
        Resource: arn(queue),
        Condition: { Bool: { "aws:SecureTransport": "false" } },
      }),
    },
  };
}

function roleOf(
  { suffix }: ReadyLane,
  { policyArns }: WorkerFunction,
  { valkeyIsOwn, sendPolicy }: LaneContext,
): object {
  return {
    Type: "AWS::IAM::Role",
    Properties: {
      PermissionsBoundary: value("permissionsBoundary"),
      AssumeRolePolicyDocument: document({
        Effect: "Allow",
        Principal: { Service: "lambda.amazonaws.com" },
        Action: "sts:AssumeRole",
      }),
      ...(policyArns.length === 0 ? {} : { ManagedPolicyArns: policyArns }),
      Policies: [
        value("keys.environmentPolicy"),
        custom(`tracing.${variable("param:tracing")}`),
        policy("own-log", {
          Effect: "Allow",
          Action: ["logs:CreateLogStream", "logs:PutLogEvents"],
          Resource: arn(`Worker${suffix}LogGroup`),
        }),
        value("keys.queuePolicy"),
        policy(
          "queues",
          // Used by the event source mapping, and by the worker to delete and to delay single messages.
          {
            Effect: "Allow",
            Action: [
              "sqs:ReceiveMessage",
              "sqs:DeleteMessage",
              "sqs:ChangeMessageVisibility",
              "sqs:GetQueueAttributes",
            ],
            Resource: arn(`LaneQueue${suffix}`),
          },
          { Effect: "Allow", Action: "sqs:SendMessage", Resource: arn("CompletionsQueue") },
        ),
        sendPolicy,
        custom("network.policy"),
        valkeyIsOwn
          ? policy("valkey", {
              Effect: "Allow",
              Action: "elasticache:Connect",
              Resource: [
                {
                  "Fn::Sub":
                    // biome-ignore lint/suspicious/noTemplateCurlyInString: CloudFormation replaces it.
                    "arn:${AWS::Partition}:elasticache:${AWS::Region}:${AWS::AccountId}:replicationgroup:${ValkeyReplicationGroup}",
                },
                arn(`LaneUser${suffix}`),
              ],
            })
          : custom("valkey.policies.worker"),
      ],
    },
  };
}

function userOf(
  { id }: ReadyLane,
  { service, stage, accessString }: LaneContext,
  previous: ReadyLane | undefined,
): object {
  // It is not retained as the functions' users are: a lane that comes back would find its user id in use.
  // ElastiCache allows 40 characters. A hash leaves as much for the stage as the users of the functions do.
  const hash = createHash("sha256").update(id).digest("hex").slice(0, 8);
  const userId = { "Fn::Join": ["-", [`${service}-${stage}-w${hash}`, custom("stackSuffix")]] };
  return {
    Type: "AWS::ElastiCache::User",
    DependsOn: previous === undefined ? "OperateWriteUser" : `LaneUser${previous.suffix}`,
    Properties: {
      Engine: "valkey",
      AuthenticationMode: { Type: "iam" },
      // With IAM, the user name must equal the user id.
      UserId: userId,
      UserName: userId,
      AccessString: accessString,
    },
  };
}

/** Lets a function send to the ready queues of all lanes. */
export function sendToLanes(lanes: readonly ReadyLane[], actions: readonly string[]): unknown {
  if (lanes.length === 0) return { Ref: "AWS::NoValue" };
  const queues = lanes.map(({ suffix }) => arn(`LaneQueue${suffix}`));
  return policy("ready-queues", { Effect: "Allow", Action: actions, Resource: queues });
}

function policy(name: string, ...statements: readonly object[]): object {
  return { PolicyName: name, PolicyDocument: document(...statements) };
}

function document(...statements: readonly object[]): object {
  return { Version: "2012-10-17", Statement: statements };
}

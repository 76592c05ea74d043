/** Variants of a deployment for the tests and the linter: the stages, and other values of their parameters. */

export interface Variant {
  readonly name: string;
  readonly stage: string;
  readonly options: readonly string[];
}

function params(values: Readonly<Record<string, string>>): string[] {
  return Object.entries(values).map(([name, value]) => `--param=${name}=${value}`);
}

const SUBNETS = {
  vpcId: "vpc-0123456789abcdef0",
  subnetIds: "subnet-0123456789abcdef0,subnet-0123456789abcdef1",
  securityGroupIds: "sg-0123456789abcdef0,sg-0123456789abcdef1",
};

const KEY = "arn:aws:kms:us-east-1:123456789012:key/";

/** Three lanes: with all settings, with a name that needs an id, and a serial one. */
const LANES = "test/fixtures/lanes/lanes.json";

export const VARIANTS: readonly Variant[] = [
  { name: "dev", stage: "dev", options: [] },
  {
    name: "prod",
    stage: "prod",
    options: params({ alarmTopic: "own", alarmEmail: "operators@example.com" }),
  },
  { name: "local", stage: "local", options: [] },
  {
    name: "existing-secret",
    stage: "prod",
    options: params({
      ...SUBNETS,
      network: "existing-with-endpoints",
      routeTableIds: "rtb-0123456789abcdef0",
      valkey: "existing",
      valkeyUrl: "rediss://valkey.example.com:6379",
      valkeyAuth: "secret",
      valkeySecretArn: "arn:aws:secretsmanager:us-east-1:123456789012:secret:valkey-AbCdEf",
      alarmTopic: "own",
      alarmEmail: "operators@example.com",
    }),
  },
  {
    name: "existing-iam",
    stage: "prod",
    options: params({
      ...SUBNETS,
      network: "existing",
      valkey: "existing",
      valkeyUrl: "rediss://valkey.example.com:6379",
      valkeyAuth: "iam",
      valkeyUser: "sluice",
      valkeyReplicationGroup: "flows",
      alarmTopic: "existing",
      alarmTopicArn: "arn:aws:sns:us-east-1:123456789012:alarms",
    }),
  },
  {
    name: "own-in-existing-network",
    stage: "dev",
    options: params({ ...SUBNETS, network: "existing", dataDeletionPolicy: "Delete" }),
  },
  {
    name: "restricted",
    stage: "test",
    options: params({
      alarmTopic: "none",
      valkeyVersion: "9.0",
      valkeyFamily: "valkey9",
      valkeyShards: "2",
      valkeyReplicas: "2",
      flowEventsQueueArn: "arn:aws:sqs:eu-west-1:123456789012:flow-ends",
      queueKeyArn: `${KEY}queues`,
      logKeyArn: `${KEY}logs`,
      environmentKeyArn: `${KEY}environment`,
      valkeyKeyArn: `${KEY}valkey`,
      permissionsBoundaryArn: "arn:aws:iam::123456789012:policy/boundary",
      tracing: "Active",
    }),
  },
  {
    name: "lanes",
    stage: "staging-of-tea",
    options: params({ alarmTopic: "none", workerLanes: LANES }),
  },
  {
    name: "lanes-existing-iam",
    stage: "prod",
    options: params({
      ...SUBNETS,
      network: "existing",
      valkey: "existing",
      valkeyUrl: "rediss://valkey.example.com:6379",
      valkeyAuth: "iam",
      valkeyUser: "sluice",
      valkeyReplicationGroup: "flows",
      alarmTopic: "existing",
      alarmTopicArn: "arn:aws:sns:us-east-1:123456789012:alarms",
      queueKeyArn: `${KEY}queues`,
      logKeyArn: `${KEY}logs`,
      environmentKeyArn: `${KEY}environment`,
      workerLanes: LANES,
    }),
  },
];

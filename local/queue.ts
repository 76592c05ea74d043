import {
  CreateQueueCommand,
  GetQueueAttributesCommand,
  type QueueAttributeName,
  SQSClient,
} from "@aws-sdk/client-sqs";
import { buildApp } from "fauxqs";

const HOST = "127.0.0.1";
const REGION = "us-east-1";
/** The emulator takes any credentials; the SDK insists on some. */
const CREDENTIALS = { accessKeyId: "local", secretAccessKey: "local" };
/** Deliveries of a message before it goes to the dead-letter queue. */
const MAX_RECEIVE_COUNT = 5;
const COMPLETIONS = "completions";
const DEAD_LETTERS = "completions-dead-letters";
const RETENTION_SECONDS = 345_600;
/** A dead-letter queue keeps the time at which a message was first sent, so it keeps messages for longer. */
const DEAD_LETTER_RETENTION_SECONDS = 1_209_600;
const COUNTS = {
  visible: "ApproximateNumberOfMessages",
  inFlight: "ApproximateNumberOfMessagesNotVisible",
  delayed: "ApproximateNumberOfMessagesDelayed",
} as const satisfies Record<string, QueueAttributeName>;

/** How many messages a queue holds. The emulator counts exactly; SQS itself only approximately. */
export interface QueueCounts {
  readonly visible: number;
  readonly inFlight: number;
  readonly delayed: number;
}

/** An SQS of this process, with the completions queue and its dead-letter queue. */
export interface LocalQueue extends AsyncDisposable {
  readonly endpoint: string;
  readonly queueUrl: string;
  readonly deadLetterQueueUrl: string;
  /** What the AWS SDK of another process needs to reach this queue. */
  readonly environment: Readonly<Record<string, string>>;
  /** A new client; the caller destroys it. */
  client(): SQSClient;
  counts(queueUrl: string): Promise<QueueCounts>;
  /** Ends the server; long polls under way end with it. */
  stop(): Promise<void>;
}

/**
 * Starts the SQS emulator on a free port of loopback.
 *
 * It is built and not "started", since fauxqs' own start listens on every interface of the machine. The queue
 * URLs are made here, since its own name hosts that need not resolve.
 */
export async function startQueue(options: {
  /** Seconds for which a received message is hidden from others. */
  readonly visibilityTimeoutSeconds: number;
}): Promise<LocalQueue> {
  const app = buildApp({ logger: false, defaultRegion: REGION });
  const endpoint = await app.listen({ host: HOST, port: 0 });
  const newClient = () => new SQSClient({ endpoint, region: REGION, credentials: CREDENTIALS });
  const admin = newClient();
  const urlOf = (name: string) => `${endpoint}/000000000000/${name}`;
  const stop = async (): Promise<void> => {
    admin.destroy();
    await app.close();
  };
  const queue: LocalQueue = {
    endpoint,
    queueUrl: urlOf(COMPLETIONS),
    deadLetterQueueUrl: urlOf(DEAD_LETTERS),
    environment: {
      AWS_ENDPOINT_URL_SQS: endpoint,
      AWS_REGION: REGION,
      AWS_ACCESS_KEY_ID: CREDENTIALS.accessKeyId,
      AWS_SECRET_ACCESS_KEY: CREDENTIALS.secretAccessKey,
    },
    client: newClient,
    counts: (queueUrl) => countsOf(admin, queueUrl),
    stop,
    [Symbol.asyncDispose]: stop,
  };
  try {
    await createQueues(admin, options.visibilityTimeoutSeconds);
  } catch (error) {
    await stop();
    throw error;
  }
  return queue;
}

async function createQueues(client: SQSClient, visibilityTimeoutSeconds: number): Promise<void> {
  await client.send(
    new CreateQueueCommand({
      QueueName: DEAD_LETTERS,
      Attributes: { MessageRetentionPeriod: String(DEAD_LETTER_RETENTION_SECONDS) },
    }),
  );
  await client.send(
    new CreateQueueCommand({
      QueueName: COMPLETIONS,
      Attributes: {
        VisibilityTimeout: String(visibilityTimeoutSeconds),
        MessageRetentionPeriod: String(RETENTION_SECONDS),
        RedrivePolicy: JSON.stringify({
          deadLetterTargetArn: `arn:aws:sqs:${REGION}:000000000000:${DEAD_LETTERS}`,
          maxReceiveCount: MAX_RECEIVE_COUNT,
        }),
      },
    }),
  );
}

async function countsOf(client: SQSClient, queueUrl: string): Promise<QueueCounts> {
  const { Attributes: attributes } = await client.send(
    new GetQueueAttributesCommand({ QueueUrl: queueUrl, AttributeNames: Object.values(COUNTS) }),
  );
  return {
    visible: Number(attributes?.[COUNTS.visible]),
    inFlight: Number(attributes?.[COUNTS.inFlight]),
    delayed: Number(attributes?.[COUNTS.delayed]),
  };
}

import { randomUUID } from "node:crypto";
import {
  CreateQueueCommand,
  DeleteQueueCommand,
  GetQueueAttributesCommand,
  type QueueAttributeName,
  SetQueueAttributesCommand,
  SQSClient,
} from "@aws-sdk/client-sqs";
import { type QueueServer, type StartQueueServer, startFauxqs } from "#local/queue-server.ts";
import { ConfigurationError, messageOf } from "#shared/errors.ts";

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

/** How many messages a queue holds. The emulators count exactly; SQS itself only approximately. */
export interface QueueCounts {
  readonly visible: number;
  readonly inFlight: number;
  readonly delayed: number;
}

/** An SQS with the completions queue and its dead-letter queue. */
export interface LocalQueue extends AsyncDisposable {
  readonly endpoint: string;
  /** What it is and where, for people. */
  readonly description: string;
  /** How long a receive may wait for a first message. */
  readonly longPollSeconds: number;
  readonly queueUrl: string;
  readonly deadLetterQueueUrl: string;
  /** What the AWS SDK of another process needs to reach this queue. */
  readonly environment: Readonly<Record<string, string>>;
  /** A new client; the caller destroys it. */
  client(): SQSClient;
  counts(queueUrl: string): Promise<QueueCounts>;
  /** Ends the server, or removes the queues from one that goes on; long polls under way end with it. */
  stop(): Promise<void>;
}

export interface QueueOptions {
  /** Seconds for which a received message is hidden from others. */
  readonly visibilityTimeoutSeconds: number;
  /** Which SQS; fauxqs in this process when left out. */
  readonly server?: StartQueueServer | undefined;
}

/**
 * Starts an SQS, and makes both queues in it as they are deployed. Rejects with a ConfigurationError when one that runs
 * already does not answer, or refuses.
 */
export async function startQueue(options: QueueOptions): Promise<LocalQueue> {
  const { server: start = startFauxqs, visibilityTimeoutSeconds } = options;
  await using parts = new AsyncDisposableStack();
  const server = parts.use(await start());
  try {
    return await makeQueues(server, visibilityTimeoutSeconds, parts);
  } catch (error) {
    if (!server.outlivesUs) throw error;
    throw new ConfigurationError([`cannot create the queues at ${server.endpoint}: ${reasonOf(error)}`]);
  }
}

/** Moves the parts to the queue that it makes. */
async function makeQueues(
  server: QueueServer,
  visibilityTimeoutSeconds: number,
  parts: AsyncDisposableStack,
): Promise<LocalQueue> {
  const admin = parts.adopt(clientFor(server), (client) => client.destroy());
  const prefix = server.outlivesUs ? `sluice-${randomUUID().slice(0, 8)}-` : "";
  const make = async (name: string, attributes: Attributes): Promise<string> => {
    const url = await createQueue(admin, server, `${prefix}${name}`, attributes);
    if (server.outlivesUs) parts.defer(() => deleteQueue(admin, url));
    return url;
  };
  const deadLetterQueueUrl = await make(DEAD_LETTERS, {
    MessageRetentionPeriod: String(DEAD_LETTER_RETENTION_SECONDS),
  });
  const queueUrl = await make(COMPLETIONS, {
    MessageRetentionPeriod: String(RETENTION_SECONDS),
    VisibilityTimeout: String(visibilityTimeoutSeconds),
    RedrivePolicy: JSON.stringify({
      deadLetterTargetArn: await arnOf(admin, deadLetterQueueUrl),
      maxReceiveCount: MAX_RECEIVE_COUNT,
    }),
  });
  await allowRedriveFrom(admin, deadLetterQueueUrl, await arnOf(admin, queueUrl));
  const all = parts.move();
  const stop = (): Promise<void> => all.disposeAsync();
  return {
    endpoint: server.endpoint,
    description: `${server.name}, ${server.endpoint}`,
    longPollSeconds: server.longPollSeconds,
    queueUrl,
    deadLetterQueueUrl,
    environment: server.environment,
    client: () => clientFor(server),
    counts: (url) => countsOf(admin, url),
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

/** A refused connection's error has no message of its own, since it may stand for several. */
function reasonOf(error: unknown): string {
  const [first]: unknown[] = error instanceof AggregateError ? error.errors : [error];
  return messageOf(first);
}

type Attributes = Partial<Record<QueueAttributeName, string>>;

function clientFor({ endpoint, environment }: QueueServer): SQSClient {
  const { AWS_REGION: region, AWS_ACCESS_KEY_ID: id, AWS_SECRET_ACCESS_KEY: secret } = environment;
  const { AWS_SESSION_TOKEN: sessionToken } = environment;
  return new SQSClient({
    endpoint,
    ...(region === undefined ? {} : { region }),
    credentials: {
      accessKeyId: id ?? "",
      secretAccessKey: secret ?? "",
      ...(sessionToken === undefined ? {} : { sessionToken }),
    },
  });
}

/** Its URL. Emulators name hosts in theirs that need not resolve, so only the path is taken from it. */
async function createQueue(
  client: SQSClient,
  { endpoint }: QueueServer,
  name: string,
  attributes: Attributes,
): Promise<string> {
  const { QueueUrl: url = "" } = await client.send(
    new CreateQueueCommand({
      QueueName: name,
      Attributes: { SqsManagedSseEnabled: "true", ...attributes },
    }),
  );
  return `${endpoint}${new URL(url).pathname}`;
}

async function arnOf(client: SQSClient, url: string): Promise<string> {
  const { Attributes: attributes } = await client.send(
    new GetQueueAttributesCommand({ QueueUrl: url, AttributeNames: ["QueueArn"] }),
  );
  return attributes?.QueueArn ?? "";
}

async function allowRedriveFrom(client: SQSClient, deadLetterQueueUrl: string, arn: string): Promise<void> {
  const policy = { redrivePermission: "byQueue", sourceQueueArns: [arn] };
  await client.send(
    new SetQueueAttributesCommand({
      QueueUrl: deadLetterQueueUrl,
      Attributes: { RedriveAllowPolicy: JSON.stringify(policy) },
    }),
  );
}

async function deleteQueue(client: SQSClient, url: string): Promise<void> {
  await client.send(new DeleteQueueCommand({ QueueUrl: url }));
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

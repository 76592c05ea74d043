import { randomUUID } from "node:crypto";
import {
  CreateQueueCommand,
  DeleteQueueCommand,
  GetQueueAttributesCommand,
  type QueueAttributeName,
  SetQueueAttributesCommand,
  SQSClient,
  SQSServiceException,
} from "@aws-sdk/client-sqs";
import { type QueueServer, type StartQueueServer, startFauxqs } from "#local/queue-server.ts";
import type { LaneId } from "#shared/contract/ids.ts";
import { ConfigurationError, messageOf } from "#shared/errors.ts";

/** Deliveries of a message before the queue moves it to the dead-letter queue. */
const MAX_RECEIVE_COUNT = 5;
const COMPLETIONS = "completions";
const DEAD_LETTERS = "completions-dead-letters";
const RETENTION_SECONDS = 345_600;
const READY_VISIBILITY_SECONDS = 60;
/** Longer than the source queue's: retention counts from the time at which the message was first sent. */
const DEAD_LETTER_RETENTION_SECONDS = 1_209_600;
const COUNTS = {
  visible: "ApproximateNumberOfMessages",
  inFlight: "ApproximateNumberOfMessagesNotVisible",
  delayed: "ApproximateNumberOfMessagesDelayed",
} as const satisfies Record<string, QueueAttributeName>;

/** Numbers of messages in a queue. The emulators count exactly, SQS approximately. */
export interface QueueCounts {
  readonly visible: number;
  readonly inFlight: number;
  readonly delayed: number;
}

/** A queue server with the completions queue, its dead-letter queue, and a ready queue for each lane. */
export interface LocalQueue extends AsyncDisposable {
  readonly endpoint: string;
  /** Name and endpoint of the server, for output. */
  readonly description: string;
  /** How long a receive may wait for a first message. */
  readonly longPollSeconds: number;
  readonly queueUrl: string;
  readonly deadLetterQueueUrl: string;
  readonly readyQueueUrls: ReadonlyMap<LaneId, string>;
  /** Environment variables with which the AWS SDK of another process reaches this server. */
  readonly environment: Readonly<Record<string, string>>;
  /** Creates a client, which the caller must destroy. */
  client(): SQSClient;
  counts(queueUrl: string): Promise<QueueCounts>;
  /** Ends the server, or deletes the queues from an external one. Long polls in flight end. */
  stop(): Promise<void>;
}

export interface QueueOptions {
  /** Seconds for which a received message is hidden from others. */
  readonly visibilityTimeoutSeconds: number;
  /** The lanes that have a ready queue; none by default. */
  readonly lanes?: readonly LaneId[];
  /** Starts the server; the default is fauxqs in this process. */
  readonly server?: StartQueueServer | undefined;
}

/**
 * Starts a queue server and creates its queues with the settings of a deployment. Rejects with a ConfigurationError if
 * an external server does not answer or refuses.
 */
export async function startQueue(options: QueueOptions): Promise<LocalQueue> {
  const { server: start = startFauxqs, visibilityTimeoutSeconds, lanes = [] } = options;
  await using parts = new AsyncDisposableStack();
  const server = parts.use(await start());
  try {
    return await createQueues(server, visibilityTimeoutSeconds, lanes, parts);
  } catch (error) {
    if (!server.isExternal) throw error;
    throw new ConfigurationError([`cannot create the queues at ${server.endpoint}: ${reasonOf(error)}`]);
  }
}

/** Takes over the resources in `parts`. */
async function createQueues(
  server: QueueServer,
  visibilityTimeoutSeconds: number,
  lanes: readonly LaneId[],
  parts: AsyncDisposableStack,
): Promise<LocalQueue> {
  const admin = parts.adopt(clientFor(server), (client) => client.destroy());
  const prefix = server.isExternal ? `sluice-${randomUUID().slice(0, 8)}-` : "";
  const make = async (name: string, attributes: Attributes): Promise<string> => {
    const url = await createQueue(admin, server, `${prefix}${name}`, attributes);
    if (server.isExternal) parts.defer(() => deleteQueue(admin, url));
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
  const readyQueueUrls = new Map<LaneId, string>();
  for (const [position, lane] of lanes.entries()) {
    // Lanes may contain characters that names of queues may not. Messages stay until a worker deletes them.
    readyQueueUrls.set(
      lane,
      await make(`ready-${position}`, { VisibilityTimeout: String(READY_VISIBILITY_SECONDS) }),
    );
  }
  const limitation = await allowRedriveFrom(admin, server, deadLetterQueueUrl, await arnOf(admin, queueUrl));
  const all = parts.move();
  const stop = (): Promise<void> => all.disposeAsync();
  return {
    endpoint: server.endpoint,
    description: `${server.name}, ${server.endpoint}${limitation}`,
    longPollSeconds: server.longPollSeconds,
    queueUrl,
    deadLetterQueueUrl,
    readyQueueUrls,
    environment: server.environment,
    client: () => clientFor(server),
    counts: (url) => countsOf(admin, url),
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

/** A refused connection is an AggregateError without a message. */
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

/** Returns the URL of the queue. Emulators may return a host that does not resolve, so only its path is used. */
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

/**
 * Lets only one queue use the dead-letter queue. External servers may refuse this attribute (ElasticMQ does), which does
 * not affect a replay: returns a remark for the description then, otherwise an empty text.
 */
async function allowRedriveFrom(
  client: SQSClient,
  { isExternal }: QueueServer,
  deadLetterQueueUrl: string,
  arn: string,
): Promise<string> {
  const policy = { redrivePermission: "byQueue", sourceQueueArns: [arn] };
  try {
    await client.send(
      new SetQueueAttributesCommand({
        QueueUrl: deadLetterQueueUrl,
        Attributes: { RedriveAllowPolicy: JSON.stringify(policy) },
      }),
    );
    return "";
  } catch (error) {
    if (!isExternal || !(error instanceof SQSServiceException) || error.$fault !== "client") throw error;
    return `, without RedriveAllowPolicy, which it refuses (${messageOf(error)})`;
  }
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

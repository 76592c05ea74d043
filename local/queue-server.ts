/** Servers with the SQS API: emulators that run in this process, and servers that already run elsewhere. */

import { once } from "node:events";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { buildApp } from "fauxqs";
import { createSqsServer } from "local-aws-sqs";

const REGION = "us-east-1";
const HOST = "127.0.0.1";
const ACCOUNT = "000000000000";
/** SQS' maximum: an idle queue then costs one request every 20 seconds. */
const LONG_POLL_SECONDS = 20;
/** Emulators accept any credentials, but the SDK requires some. */
const CREDENTIALS = { AWS_ACCESS_KEY_ID: "local", AWS_SECRET_ACCESS_KEY: "local" };

export interface QueueServer extends AsyncDisposable {
  /** A name for output. */
  readonly name: string;
  /** A URL without a trailing slash. */
  readonly endpoint: string;
  /** Environment variables with which the AWS SDK of another process reaches this server. */
  readonly environment: Readonly<Record<string, string>>;
  /** Whether the server keeps running afterwards. Queues in it need unique names and must be deleted. */
  readonly isExternal: boolean;
  /** How long a receive may wait for a first message. */
  readonly longPollSeconds: number;
}

export type StartQueueServer = () => Promise<QueueServer>;

/** Starts fauxqs. Uses `buildApp`, since its own start function listens on all interfaces. */
export async function startFauxqs(): Promise<QueueServer> {
  const app = buildApp({ logger: false, defaultRegion: REGION });
  const endpoint = await app.listen({ host: HOST, port: 0 });
  return ownServer("fauxqs", endpoint, () => app.close());
}

/** Starts local-aws-sqs, an implementation that shares no code with fauxqs. */
export async function startLocalAwsSqs(): Promise<QueueServer> {
  const server: Server = await createSqsServer({
    port: 0,
    hostname: HOST,
    region: REGION,
    accountId: ACCOUNT,
    // Otherwise it lists a deleted queue for another minute, as SQS does.
    emulateQueueCreationLifecycle: false,
  });
  const { port } = server.address() as AddressInfo;
  const own = ownServer("local-aws-sqs", `http://${HOST}:${port}`, async () => {
    const closed = once(server, "close");
    server.close();
    // Ends long polls in flight.
    server.closeAllConnections();
    await closed;
  });
  // Unlike in SQS, its long poll waits for a full batch instead of the first message.
  return { ...own, longPollSeconds: 0 };
}

/** A server that ends when it is disposed of; `stop` is called at most once. */
export function ownServer(name: string, endpoint: string, stop: () => Promise<unknown>): QueueServer {
  let stopped: Promise<unknown> | undefined;
  return {
    name,
    endpoint,
    environment: { AWS_ENDPOINT_URL_SQS: endpoint, AWS_REGION: REGION, ...CREDENTIALS },
    isExternal: false,
    longPollSeconds: LONG_POLL_SECONDS,
    async [Symbol.asyncDispose]() {
      stopped ??= stop();
      await stopped;
    },
  };
}

/** A server that already runs. Region and credentials come from the environment if they are set there. */
export function serverAt(url: URL, env: NodeJS.ProcessEnv = process.env): QueueServer {
  const endpoint = url.href.replace(/\/$/, "");
  const { AWS_REGION: region = REGION, AWS_ACCESS_KEY_ID: id, AWS_SECRET_ACCESS_KEY: secret } = env;
  const hasCredentials = id !== undefined && secret !== undefined;
  return {
    name: "existing SQS endpoint",
    endpoint,
    environment: {
      AWS_ENDPOINT_URL_SQS: endpoint,
      AWS_REGION: region,
      ...(hasCredentials ? { AWS_ACCESS_KEY_ID: id, AWS_SECRET_ACCESS_KEY: secret } : CREDENTIALS),
      ...(hasCredentials && env.AWS_SESSION_TOKEN !== undefined
        ? { AWS_SESSION_TOKEN: env.AWS_SESSION_TOKEN }
        : {}),
    },
    isExternal: true,
    longPollSeconds: LONG_POLL_SECONDS,
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

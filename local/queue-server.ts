/** Servers that speak SQS' protocol: the emulators that run in this process, and one that runs somewhere already. */

import { once } from "node:events";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { buildApp } from "fauxqs";
import { createSqsServer } from "local-aws-sqs";

const REGION = "us-east-1";
const HOST = "127.0.0.1";
const ACCOUNT = "000000000000";
/** SQS' greatest: an empty queue costs one request in so many seconds. */
const LONG_POLL_SECONDS = 20;
/** Emulators take any credentials; the SDK insists on some. */
const CREDENTIALS = { AWS_ACCESS_KEY_ID: "local", AWS_SECRET_ACCESS_KEY: "local" };

export interface QueueServer extends AsyncDisposable {
  /** For people. */
  readonly name: string;
  /** Without a slash at its end. */
  readonly endpoint: string;
  /** The AWS SDK's own variables: how a process reaches this server. */
  readonly environment: Readonly<Record<string, string>>;
  /** Whether it goes on when we are done, so that what is made in it must be given names of its own and be removed. */
  readonly outlivesUs: boolean;
  /** How long a receive may wait for a first message. */
  readonly longPollSeconds: number;
}

export type StartQueueServer = () => Promise<QueueServer>;

/** fauxqs. It is built and not "started", since its own start listens on every interface of the machine. */
export async function startFauxqs(): Promise<QueueServer> {
  const app = buildApp({ logger: false, defaultRegion: REGION });
  const endpoint = await app.listen({ host: HOST, port: 0 });
  return ownServer("fauxqs", endpoint, () => app.close());
}

/** local-aws-sqs: another implementation, which shares no code with the first. */
export async function startLocalAwsSqs(): Promise<QueueServer> {
  const server: Server = await createSqsServer({
    port: 0,
    hostname: HOST,
    region: REGION,
    accountId: ACCOUNT,
    // As SQS does, it would go on listing a removed queue for a minute.
    emulateQueueCreationLifecycle: false,
  });
  const { port } = server.address() as AddressInfo;
  const own = ownServer("local-aws-sqs", `http://${HOST}:${port}`, async () => {
    const closed = once(server, "close");
    server.close();
    // Long polls under way end with it.
    server.closeAllConnections();
    await closed;
  });
  // Unlike SQS, it has a long poll wait until the batch is full, and not for the first message.
  return { ...own, longPollSeconds: 0 };
}

/** A server that goes away with its owner; `stop` is called once, however often it is disposed of. */
export function ownServer(name: string, endpoint: string, stop: () => Promise<unknown>): QueueServer {
  let stopped: Promise<unknown> | undefined;
  return {
    name,
    endpoint,
    environment: { AWS_ENDPOINT_URL_SQS: endpoint, AWS_REGION: REGION, ...CREDENTIALS },
    outlivesUs: false,
    longPollSeconds: LONG_POLL_SECONDS,
    async [Symbol.asyncDispose]() {
      stopped ??= stop();
      await stopped;
    },
  };
}

/** A server that runs already. Region and credentials are the caller's own, where they are set. */
export function serverAt(url: URL, env: NodeJS.ProcessEnv = process.env): QueueServer {
  const endpoint = url.href.replace(/\/$/, "");
  const { AWS_REGION: region = REGION, AWS_ACCESS_KEY_ID: id, AWS_SECRET_ACCESS_KEY: secret } = env;
  const isGiven = id !== undefined && secret !== undefined;
  return {
    name: "existing SQS endpoint",
    endpoint,
    environment: {
      AWS_ENDPOINT_URL_SQS: endpoint,
      AWS_REGION: region,
      ...(isGiven ? { AWS_ACCESS_KEY_ID: id, AWS_SECRET_ACCESS_KEY: secret } : CREDENTIALS),
      ...(isGiven && env.AWS_SESSION_TOKEN !== undefined ? { AWS_SESSION_TOKEN: env.AWS_SESSION_TOKEN } : {}),
    },
    outlivesUs: true,
    longPollSeconds: LONG_POLL_SECONDS,
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

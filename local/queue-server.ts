/** Servers with the SQS API: an emulator that runs in this process, and servers that already run elsewhere. */

import { ConfigurationError, messageOf } from "#shared/errors.ts";

export const REGION = "us-east-1";
export const HOST = "127.0.0.1";
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

/**
 * Starts fauxqs. Uses `buildApp`, since its own start function listens on all interfaces. Throws a ConfigurationError if
 * fauxqs is not installed: in the npm package it is an optional peer dependency, which only tests need.
 */
export async function startFauxqs(): Promise<QueueServer> {
  const { buildApp } = await import("fauxqs").catch((cause: unknown) => {
    throw new ConfigurationError([
      `fauxqs, the local SQS, cannot be loaded (${messageOf(cause)}): run npm install --save-dev fauxqs`,
    ]);
  });
  const app = buildApp({ logger: false, defaultRegion: REGION });
  const endpoint = await app.listen({ host: HOST, port: 0 });
  return ownServer("fauxqs", endpoint, () => app.close());
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

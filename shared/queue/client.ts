import type { ServiceInputTypes, ServiceOutputTypes, SQSClient } from "@aws-sdk/client-sqs";

const CONNECTION_TIMEOUT_MS = 2_000;

type Command<Input extends ServiceInputTypes, Output extends ServiceOutputTypes> = Parameters<
  typeof SQSClient.prototype.send<Input, Output>
>[0];

/** What is asked of a client of SQS. An `SQSClient` of the AWS SDK is one. */
export interface QueueClient {
  send<Input extends ServiceInputTypes, Output extends ServiceOutputTypes>(
    command: Command<Input, Output>,
    options?: { readonly abortSignal?: AbortSignal },
  ): Promise<Output>;
}

/** A client that somebody made, and can close: what it has under way fails. */
export interface OwnQueueClient extends QueueClient {
  destroy(): void;
}

/**
 * A client of SQS: region, credentials and endpoint come from the AWS SDK's own variables. A request that is not
 * answered in time fails, and is the SDK's to retry; by default it would wait for ever.
 *
 * The SDK is loaded with the first request: it is a great part of a cold start, and most invocations send nothing.
 */
export function queueClient(requestTimeoutMs = 5_000): OwnQueueClient {
  let client: Promise<SQSClient> | undefined;
  return {
    send: async (command, options) => {
      client ??= connect(requestTimeoutMs);
      return (await client).send(command, options);
    },
    destroy: () => {
      // Where it could not be made, whoever sent something heard of it.
      void client?.then((made) => made.destroy()).catch(() => undefined);
    },
  };
}

async function connect(requestTimeoutMs: number): Promise<SQSClient> {
  const { SQSClient } = await import("#shared/queue/sdk.ts");
  return new SQSClient({
    requestHandler: {
      connectionTimeout: CONNECTION_TIMEOUT_MS,
      requestTimeout: requestTimeoutMs,
      throwOnRequestTimeout: true,
    },
  });
}

import type { ServiceInputTypes, ServiceOutputTypes, SQSClient } from "@aws-sdk/client-sqs";

const CONNECTION_TIMEOUT_MS = 2_000;
const REQUEST_TIMEOUT_MS = 5_000;

type Command<Input extends ServiceInputTypes, Output extends ServiceOutputTypes> = Parameters<
  typeof SQSClient.prototype.send<Input, Output>
>[0];

export interface SendOptions {
  readonly abortSignal?: AbortSignal;
  /**
   * Makes the request only once. By default, the SDK repeats a request that got no answer. Repeating a send duplicates its
   * messages.
   */
  readonly once?: boolean;
  /** Milliseconds without an answer after which the request fails, instead of 5,000: for a receive that waits for messages. */
  readonly requestTimeout?: number;
}

/** A client of SQS, for example the AWS SDK's `SQSClient`. That one ignores `once`: set its `maxAttempts` to 1 instead. */
export interface QueueClient {
  send<Input extends ServiceInputTypes, Output extends ServiceOutputTypes>(
    command: Command<Input, Output>,
    options?: SendOptions,
  ): Promise<Output>;
}

/** A client that its creator must close. */
export interface OwnQueueClient extends QueueClient {
  /** Closes the connections; requests in flight fail. */
  destroy(): void;
}

/**
 * Creates a client of SQS. Region, credentials and endpoint come from the AWS SDK's environment variables. A request fails
 * after 5 s without an answer, unless it sets another limit; the SDK's default has no timeout.
 *
 * The SDK is loaded with the first request: it is a large part of a cold start, and most invocations send nothing.
 */
export function queueClient(): OwnQueueClient {
  const clients = new Map<boolean, Promise<SQSClient>>();
  return {
    send: async (command, { once = false, ...options } = {}) => {
      let client = clients.get(once);
      if (client === undefined) {
        client = connect(once);
        clients.set(once, client);
      }
      return (await client).send(command, options);
    },
    destroy: () => {
      for (const client of clients.values()) {
        // If creating the client failed, the request that needed it has reported the error.
        void client.then((created) => created.destroy()).catch(() => undefined);
      }
    },
  };
}

async function connect(once: boolean): Promise<SQSClient> {
  const { SQSClient } = await import("#shared/queue/sdk.ts");
  return new SQSClient({
    ...(once ? { maxAttempts: 1 } : {}),
    requestHandler: {
      connectionTimeout: CONNECTION_TIMEOUT_MS,
      requestTimeout: REQUEST_TIMEOUT_MS,
      throwOnRequestTimeout: true,
    },
  });
}

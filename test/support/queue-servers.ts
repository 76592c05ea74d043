import { startLocalStack } from "#local/localstack.ts";
import { type StartQueueServer, startFauxqs, startLocalAwsSqs } from "#local/queue-server.ts";

export interface QueueImplementation {
  readonly name: string;
  readonly start: StartQueueServer;
  /** How a whole dead-letter queue is replayed on it: not all of them have move tasks. */
  readonly replaysBy: "receive" | "move_task";
}

/**
 * Implementations of SQS that share no code, for `describe.each`. LocalStack, which needs Python, comes in where the
 * variable SLUICE_TEST_LOCALSTACK asks for it.
 */
export const QUEUE_IMPLEMENTATIONS: readonly QueueImplementation[] = [
  { name: "fauxqs", start: startFauxqs, replaysBy: "receive" },
  { name: "local-aws-sqs", start: startLocalAwsSqs, replaysBy: "move_task" },
  ...((process.env.SLUICE_TEST_LOCALSTACK ?? "") === ""
    ? []
    : [
        {
          name: "LocalStack",
          start: () => startLocalStack((line) => process.stderr.write(`${line}\n`)),
          replaysBy: "move_task" as const,
        },
      ]),
];

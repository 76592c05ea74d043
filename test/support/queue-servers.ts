import { startLocalAwsSqs } from "#local/local-aws-sqs.ts";
import { startLocalStack } from "#local/localstack.ts";
import { type StartQueueServer, startFauxqs } from "#local/queue-server.ts";

export interface QueueImplementation {
  readonly name: string;
  readonly start: StartQueueServer;
  /** How a whole dead-letter queue is replayed: not every implementation has move tasks. */
  readonly replaysBy: "receive" | "move_task";
}

/**
 * Independent implementations of SQS, for `describe.each`. LocalStack needs Python and is included only if the
 * environment variable SLUICE_TEST_LOCALSTACK is set.
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

import { startLocalStack } from "#local/localstack.ts";
import { findPython } from "#local/localstack-package.ts";
import { type QueueServer, serverAt, startFauxqs, startLocalAwsSqs } from "#local/queue-server.ts";

/** What `--sqs` takes besides a URL. `auto` takes what is there. */
export const QUEUE_CHOICES = ["fauxqs", "local-aws-sqs", "localstack", "auto"] as const;

export const DEFAULT_QUEUE = QUEUE_CHOICES[0];

export type QueueChoice = (typeof QUEUE_CHOICES)[number] | `${"http" | "https"}://${string}`;

export function isQueueChoice(text: string): text is QueueChoice {
  return QUEUE_CHOICES.some((choice) => choice === text) || /^https?:$/.test(URL.parse(text)?.protocol ?? "");
}

/**
 * The SQS of a choice; `auto` is the endpoint that the AWS SDK's own variables name, else LocalStack where there is a
 * Python for it, else fauxqs. `say` hears what is done and why. Throws a ConfigurationError for what cannot be had.
 */
export async function queueServerFor(
  choice: QueueChoice,
  say: (line: string) => void,
  env: NodeJS.ProcessEnv = process.env,
): Promise<QueueServer> {
  switch (choice) {
    case "fauxqs":
      return startFauxqs();
    case "local-aws-sqs":
      return startLocalAwsSqs();
    case "localstack":
      return startLocalStack(say);
    case "auto":
      return automatic(say, env);
    default:
      return serverAt(new URL(choice), env);
  }
}

async function automatic(say: (line: string) => void, env: NodeJS.ProcessEnv): Promise<QueueServer> {
  const named = URL.parse(env.AWS_ENDPOINT_URL_SQS || env.AWS_ENDPOINT_URL || "");
  if (named !== null) return serverAt(named, env);
  if (findPython(env) !== undefined) return startLocalStack(say);
  say(
    "AWS_ENDPOINT_URL is not set, and there is no Python 3.13 or later for LocalStack: fauxqs is the queue",
  );
  return startFauxqs();
}

import { startLocalAwsSqs } from "#local/local-aws-sqs.ts";
import { startLocalStack } from "#local/localstack.ts";
import { findPython } from "#local/localstack-package.ts";
import { type QueueServer, serverAt, startFauxqs } from "#local/queue-server.ts";

/** The values of `--sqs`, besides a URL. */
export const QUEUE_CHOICES = ["fauxqs", "local-aws-sqs", "localstack", "auto"] as const;

export const DEFAULT_QUEUE = QUEUE_CHOICES[0];

export type QueueChoice = (typeof QUEUE_CHOICES)[number] | `${"http" | "https"}://${string}`;

export function isQueueChoice(text: string): text is QueueChoice {
  return QUEUE_CHOICES.some((choice) => choice === text) || /^https?:$/.test(URL.parse(text)?.protocol ?? "");
}

/**
 * Starts the chosen queue server, or returns the one at the chosen URL. `auto` is the endpoint of AWS_ENDPOINT_URL_SQS
 * or AWS_ENDPOINT_URL, else LocalStack if there is a Python for it, else fauxqs. `say` receives progress messages.
 * Throws a ConfigurationError if the choice is not available.
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
  say("using fauxqs: AWS_ENDPOINT_URL is not set, and LocalStack needs Python 3.13 or later");
  return startFauxqs();
}

import { fileURLToPath } from "node:url";
import { FunctionProcess } from "#local/function-process.ts";
import type { DeadLetterBench } from "#test/support/dead-letters.ts";

const BUNDLE = fileURLToPath(new URL("../../dist/redrive/index.mjs", import.meta.url));

/** Starts the built redrive function in its own process, with the queues of a bench. */
export function startRedriveFunction(
  bench: DeadLetterBench,
  options: { readonly timeoutMs?: number; readonly environment?: Readonly<Record<string, string>> } = {},
): FunctionProcess {
  const { queue } = bench;
  return new FunctionProcess({
    functionName: "redrive",
    bundle: BUNDLE,
    environment: {
      ...queue.environment,
      DEAD_LETTER_QUEUE_URL: queue.deadLetterQueueUrl,
      COMPLETIONS_QUEUE_URL: queue.queueUrl,
      ...options.environment,
    },
    timeoutMs: options.timeoutMs ?? 20_000,
    onOutput: () => undefined,
  });
}

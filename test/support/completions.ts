import { Redis } from "iovalkey";
import { COMPLETIONS_CHANNEL } from "#shared/contract/keys.ts";
import type { Deployment } from "#test/support/valkey.ts";

/** The published completion events of one flow, in order. */
export interface CompletionFeed extends Disposable {
  /** Waits for the next event of the flow and returns its JSON as published. */
  next(): Promise<string>;
}

export async function subscribeToCompletions(
  deployment: Deployment,
  flowId: string,
): Promise<CompletionFeed> {
  const { url } = deployment.address;
  const client = new Redis({ host: url.hostname, port: Number(url.port) });
  const arrived: string[] = [];
  const waiting: ((message: string) => void)[] = [];
  client.on("message", (_channel: string, message: string) => {
    if (!message.includes(flowId)) return;
    const receiver = waiting.shift();
    if (receiver === undefined) arrived.push(message);
    else receiver(message);
  });
  await client.subscribe(COMPLETIONS_CHANNEL);
  return {
    next: () => {
      const message = arrived.shift();
      return message === undefined
        ? new Promise((resolve) => waiting.push(resolve))
        : Promise.resolve(message);
    },
    [Symbol.dispose]: () => client.disconnect(),
  };
}

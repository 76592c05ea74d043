/** `sluice dev`: the local stack with the page, until it is stopped. */

import { setTimeout as sleep } from "node:timers/promises";
import { DEFAULT_MAX_CASCADE_DEPTH } from "#functions/dispatch/config.ts";
import { startPageServer } from "#local/page/server.ts";
import { type Stack, startStack } from "#local/stack.ts";
import { type OperateServices, readOperateConfig, servicesOn } from "#operate/services.ts";
import type { LaneId } from "#shared/contract/ids.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import { messageOf } from "#shared/errors.ts";
import type { Environment } from "#shared/runtime/environment.ts";

export interface DevOptions {
  /** Of the page. 0: any free one. */
  readonly port: number;
  /** Lanes that have a ready queue, for workers. */
  readonly lanes: readonly LaneId[];
  /** The folder with the built page. */
  readonly folder: string;
  readonly actor: string;
  readonly signal: AbortSignal;
  readonly onError: (error: string) => void;
  /** Called when everything runs. */
  readonly onStarted: (url: string, environment: Readonly<Record<string, string>>) => void;
}

/** A delay or a lease that is over is noticed after this time; a deployment takes a minute. */
const SWEEP_MS = 2_000;

/**
 * Runs the local stack and the page's server until the signal aborts.
 *
 * @throws Error if the Valkey server of the stack ends by itself: its data is gone.
 * @throws ConfigurationError if the page's port is in use, or something is not built or not installed.
 */
export async function runDev(options: DevOptions): Promise<void> {
  const { port, lanes, folder, actor, signal, onError, onStarted } = options;
  await using stack = await startStack({
    router: new PartitionRouter(),
    maxCascadeDepth: DEFAULT_MAX_CASCADE_DEPTH,
    lanes,
    onError,
    // Only this edition has groups of edges.
    edition: 14,
  });
  if (signal.aborted) return;
  const environment = { ...stack.environment, DEAD_LETTER_QUEUE_URL: stack.queue.deadLetterQueueUrl };
  const services = await servicesOf(stack, environment);
  await using server = await startPageServer({ port, folder, services, activity: stack.activity, actor });
  onStarted(server.url, environment);
  const ended = new AbortController();
  const lost = stack.server.exited.then(() => {
    ended.abort();
    if (!signal.aborted) throw new Error("the Valkey server has ended, and its data is gone: start again");
  });
  await Promise.race([sweepUntil(AbortSignal.any([signal, ended.signal]), stack, onError), lost]);
}

/** The stack's own clients: those of the environment would be the developer's. */
async function servicesOf(
  { valkey, client, completions, ready }: Stack,
  environment: Environment,
): Promise<OperateServices> {
  const services = await servicesOn(valkey, readOperateConfig(environment));
  return { ...services, sqs: client, completions, ready };
}

/**
 * Runs the reconciler regularly, in place of a deployment's schedule. Not while completions wait in the queue: the local grace
 * period is so short that they would be sent again.
 */
async function sweepUntil(
  signal: AbortSignal,
  { reconcile, queue }: Stack,
  onError: (error: string) => void,
): Promise<void> {
  while (!signal.aborted) {
    try {
      await sleep(SWEEP_MS, undefined, { signal });
      const { visible, inFlight, delayed } = await queue.counts(queue.queueUrl);
      if (visible + inFlight + delayed > 0) continue;
      await reconcile.invoke({});
    } catch (error) {
      if (!signal.aborted) onError(`the reconciler failed: ${messageOf(error)}`);
    }
  }
}

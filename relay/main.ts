/**
 * `npm run relay`: forwards the completions that an engine publishes in Valkey to the completions queue, until SIGTERM
 * or SIGINT.
 *
 * Exit status: 0 when everything was sent before the end, 1 when completions remain unsent or the relay failed, 2 when the
 * arguments or the environment are invalid.
 */

import { writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { type RelayConfig, readRelayConfig } from "#relay/config.ts";
import { pause } from "#relay/pause.ts";
import { Relay } from "#relay/relay.ts";
import { ConfigurationError, messageOf } from "#shared/errors.ts";
import { queueClient } from "#shared/queue/client.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { createLogger } from "#shared/runtime/logger.ts";
import { listenForStop } from "#shared/runtime/stop-signals.ts";
import type { Log } from "#shared/runtime/telemetry.ts";

const HELP = `Usage: npm run relay

Subscribes to the completions channel on every Valkey node and forwards each completion to the completions queue. On
SIGTERM or SIGINT it unsubscribes, sends queued completions for up to 20 seconds, and ends. The reconciler recovers missed events.

Environment:
  VALKEY_URL, VALKEY_CLUSTER_MODE, VALKEY_AUTH, …  as for the functions
  COMPLETIONS_QUEUE_URL                            the queue that triggers the dispatch function
  RELAY_HEALTH_FILE                                a file to write every 5 seconds while a node is subscribed (default: none)
  POWERTOOLS_LOG_LEVEL                             the log level (default: INFO); counts are logged every minute
  AWS_REGION, AWS_ENDPOINT_URL_SQS, …              region, credentials and endpoint of the queue, as for any AWS SDK

Exit status: 0 when everything was sent, 1 when completions remain unsent or the relay failed, 2 when the arguments or
the environment are invalid.
`;

const CHECK_INTERVAL_MS = 5_000;
const CHECKS_PER_REPORT = 12;
/** Shorter than Fargate's default of 30 seconds between SIGTERM and SIGKILL. */
const DRAIN_MS = 20_000;

async function main(): Promise<number> {
  let config: RelayConfig;
  try {
    const { values } = parseArgs({ options: { help: { type: "boolean", short: "h" } } });
    if (values.help === true) {
      process.stdout.write(HELP);
      return 0;
    }
    config = readRelayConfig(process.env);
  } catch (error) {
    process.stderr.write(`relay: ${messageOf(error)}\n`);
    if (error instanceof ConfigurationError || isUsage(error)) return 2;
    throw error;
  }
  return run(config);
}

/** Whether `parseArgs` has thrown it. */
function isUsage(error: unknown): boolean {
  return error instanceof TypeError && "code" in error && String(error.code).startsWith("ERR_PARSE_ARGS_");
}

async function run({ valkey, completionsQueueUrl, healthFile }: RelayConfig): Promise<number> {
  const stop = listenForStop();
  const logger = createLogger("relay");
  const client = queueClient();
  const relay = new Relay({
    address: valkey,
    publisher: new SqsCompletionPublisher(client, completionsQueueUrl),
    log: logger,
  });
  const counts = () => ({ ...relay.tally, waiting: relay.waiting, nodes: relay.live });
  for (let check = 1; !stop.signal.aborted; check += 1) {
    await pause(CHECK_INTERVAL_MS, stop.signal);
    if (relay.live > 0) await writeHealthFile(healthFile, logger);
    if (check % CHECKS_PER_REPORT === 0) logger.info("relay counts", counts());
  }
  const unsent = await relay.stop(Date.now() + DRAIN_MS);
  client.destroy();
  const finalCounts = { ...counts(), unsent };
  if (unsent === 0) logger.info("relay stopped", finalCounts);
  else logger.error("relay stopped with unsent completions: the reconciler recovers them", finalCounts);
  return unsent === 0 ? 0 : 1;
}

/** A health check compares the modification time of the file. A relay without a subscribed node keeps reconnecting. */
async function writeHealthFile(file: string | undefined, log: Log): Promise<void> {
  if (file === undefined) return;
  try {
    await writeFile(file, new Date().toISOString());
  } catch (error) {
    log.error("cannot write RELAY_HEALTH_FILE", { reason: messageOf(error) });
  }
}

process.exitCode = await main();

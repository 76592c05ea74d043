/**
 * `npm run relay`: passes completions that an engine publishes on to the completions queue, until it is told to stop.
 *
 * Exit status: 0 when it was told to stop and the queue has all that was heard, 1 when some of it is unsent or
 * something broke, 2 when the arguments or the environment are wrong.
 */

import { writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { Logger } from "@aws-lambda-powertools/logger";
import { type RelayConfig, readRelayConfig } from "#relay/config.ts";
import { pause } from "#relay/pause.ts";
import { Relay } from "#relay/relay.ts";
import { ConfigurationError, messageOf } from "#shared/errors.ts";
import { queueClient } from "#shared/queue/client.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { listenForStop } from "#shared/runtime/stop-signals.ts";
import type { Log } from "#shared/runtime/telemetry.ts";

const HELP = `Usage: npm run relay

Subscribes to the completions that an engine publishes in Valkey, on every node, and sends them to the completions
queue. Ends on SIGTERM or SIGINT, when the queue has all that was heard. What it misses is the reconciler's.

Environment:
  VALKEY_URL, VALKEY_CLUSTER_MODE, VALKEY_AUTH, …  as for the functions
  COMPLETIONS_QUEUE_URL                            the queue that triggers the dispatch function
  RELAY_HEALTH_FILE                                written every 5 seconds while a node is heard; unset: none
  POWERTOOLS_LOG_LEVEL                             INFO unless set; counts are logged every minute, and at the end
Region, credentials and endpoint of the queue are the AWS SDK's own variables.
`;

const LOOK_EVERY_MS = 5_000;
const LOOKS_PER_REPORT = 12;
/** Within the 30 seconds that Fargate leaves between SIGTERM and SIGKILL unless told otherwise. */
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

/** What `parseArgs` throws. */
function isUsage(error: unknown): boolean {
  return error instanceof TypeError && "code" in error && String(error.code).startsWith("ERR_PARSE_ARGS_");
}

async function run({ valkey, completionsQueueUrl, healthFile }: RelayConfig): Promise<number> {
  const stop = listenForStop();
  const logger = new Logger({ serviceName: "sluice-relay" });
  const client = queueClient();
  const relay = new Relay({
    address: valkey,
    publisher: new SqsCompletionPublisher(client, completionsQueueUrl),
    log: logger,
  });
  const counts = () => ({ ...relay.tally, waiting: relay.waiting, nodes: relay.live });
  for (let look = 1; !stop.signal.aborted; look += 1) {
    await pause(LOOK_EVERY_MS, stop.signal);
    if (relay.live > 0) await tellHealth(healthFile, logger);
    if (look % LOOKS_PER_REPORT === 0) logger.info("the relay's counts so far", counts());
  }
  const unsent = await relay.stop(Date.now() + DRAIN_MS);
  client.destroy();
  const said = { ...counts(), unsent };
  if (unsent === 0) logger.info("the relay ended", said);
  else logger.error("the relay ended with completions unsent: the reconciler finds them", said);
  return unsent === 0 ? 0 : 1;
}

/** Whoever looks at the file's time sees whether a node was heard of late; a relay without one goes on listening. */
async function tellHealth(file: string | undefined, log: Log): Promise<void> {
  if (file === undefined) return;
  try {
    await writeFile(file, new Date().toISOString());
  } catch (error) {
    log.error("RELAY_HEALTH_FILE cannot be written", { reason: messageOf(error) });
  }
}

process.exitCode = await main();

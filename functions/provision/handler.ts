/**
 * The provision function: a CloudFormation custom resource that prepares Valkey for a deployment, or fails the deployment
 * with the reason. It always responds to CloudFormation before its own timeout. If the response is lost, the invocation
 * fails and Lambda retries it.
 */

import { injectLambdaContext } from "@aws-lambda-powertools/logger/middleware";
import middy from "@middy/core";
import type { Context } from "aws-lambda";
import { attemptUntil } from "#functions/provision/attempt.ts";
import { readProvisionConfig } from "#functions/provision/config.ts";
import { type ProvisionReport, provision } from "#functions/provision/provision.ts";
import { readRequestType, readResponseTarget } from "#functions/provision/request.ts";
import { type Outcome, respond } from "#functions/provision/respond.ts";
import { createPowertools } from "#shared/runtime/powertools.ts";
import { createSessions } from "#shared/valkey/start-up.ts";

const { logger, telemetry } = createPowertools("provision");
/** Reserved before Lambda's deadline for the response and its retries; at most a third of the time. */
const RESPONSE_MS = 10_000;
/** Reserved for the end of the invocation after the response. */
const RESERVED_MS = 500;

async function handleRequest(event: unknown, context: Context): Promise<Outcome> {
  const remainingMs = context.getRemainingTimeInMillis();
  const deadlineMs = Date.now() + remainingMs - RESERVED_MS;
  const target = readResponseTarget(event);
  const outcome = await attemptUntil(deadlineMs - Math.min(RESPONSE_MS, remainingMs / 3), () =>
    processRequest(event),
  );
  if (outcome.status === "SUCCESS") telemetry.info("request succeeded", { ...outcome.data });
  else telemetry.error("request failed", { reason: outcome.reason });
  await respond(target, outcome, deadlineMs);
  return outcome;
}

async function processRequest(event: unknown): Promise<Readonly<Record<string, string>>> {
  // Deleting the stack deletes neither the data nor the library: other programs may use them.
  if (readRequestType(event) === "Delete") return {};
  // Not at module scope: a function that fails to start could not respond.
  const config = readProvisionConfig(process.env);
  // Each attempt uses a new client, without the state of the previous one.
  const sessions = createSessions(config, telemetry, (valkey) => provision(valkey, config, telemetry));
  const { valkey, startupInfo } = await sessions.get();
  valkey.close();
  return dataOf(startupInfo);
}

function dataOf({
  version,
  edition,
  library,
  partitions,
  primaries,
}: ProvisionReport): Record<string, string> {
  return {
    LibraryVersion: version,
    LibraryEdition: String(edition),
    Library: library,
    Partitions: partitions,
    Primaries: String(primaries),
  };
}

export const handler = middy<unknown, Outcome>().use(injectLambdaContext(logger)).handler(handleRequest);

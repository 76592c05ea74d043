/**
 * The provision function: a CloudFormation custom resource that makes Valkey ready for a deployment, or fails the
 * deployment with the reason. Whatever happens, CloudFormation hears of it before this function's time is up; should
 * the answer be lost all the same, the invocation fails, and Lambda repeats it.
 */

import { injectLambdaContext } from "@aws-lambda-powertools/logger/middleware";
import middy from "@middy/core";
import type { Context } from "aws-lambda";
import { answer, type Outcome } from "#functions/provision/answer.ts";
import { readProvisionConfig } from "#functions/provision/config.ts";
import { type ProvisionReport, provision } from "#functions/provision/provision.ts";
import { readCaller, readRequestType } from "#functions/provision/request.ts";
import { outcomeBy } from "#functions/provision/time.ts";
import { createPowertools } from "#shared/runtime/powertools.ts";
import { createSessions } from "#shared/valkey/start-up.ts";

const { logger, telemetry } = createPowertools("provision");
/** Kept back from Lambda's deadline for the answer and its repetitions; at most a third of the time. */
const ANSWER_MS = 10_000;
/** What an invocation needs to end after its answer. */
const MARGIN_MS = 500;

async function handleRequest(event: unknown, context: Context): Promise<Outcome> {
  const remainingMs = context.getRemainingTimeInMillis();
  const deadlineMs = Date.now() + remainingMs - MARGIN_MS;
  const caller = readCaller(event);
  const outcome = await outcomeBy(deadlineMs - Math.min(ANSWER_MS, remainingMs / 3), () => fulfil(event));
  if (outcome.status === "SUCCESS") telemetry.info("the request is fulfilled", { ...outcome.data });
  else telemetry.error("the request failed", { reason: outcome.reason });
  await answer(caller, outcome, deadlineMs);
  return outcome;
}

async function fulfil(event: unknown): Promise<Readonly<Record<string, string>>> {
  // The data belong to the executions and not to the stack, and the library to whoever uses them.
  if (readRequestType(event) === "Delete") return {};
  // Not at module scope: a function that cannot start gives no answer.
  const config = readProvisionConfig(process.env);
  // A client for each attempt: what it found out is not the next one's.
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

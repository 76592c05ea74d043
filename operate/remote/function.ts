/** The wiring that `operate-read` and `operate-write` share: logs, metrics, and a client of Valkey per environment. */

import { injectLambdaContext } from "@aws-lambda-powertools/logger/middleware";
import { logMetrics } from "@aws-lambda-powertools/metrics/middleware";
import middy from "@middy/core";
import type { Context } from "aws-lambda";
import type { Operation } from "#operate/operation.ts";
import { answerRequest } from "#operate/remote/answer.ts";
import type { RemoteAnswer } from "#operate/remote/protocol.ts";
import { readOperateConfig, servicesOn } from "#operate/services.ts";
import { createPowertools } from "#shared/runtime/powertools.ts";
import { Valkey } from "#shared/valkey/client.ts";
import { SessionProvider } from "#shared/valkey/session.ts";

/** Reserved before Lambda's deadline for the answer, logs and metrics. */
const RESERVED_MS = 3_000;

/**
 * Creates the handler of a function that runs `operations`, and can run no others.
 *
 * @throws ConfigurationError if the environment is invalid.
 */
export function operateFunction(functionName: string, operations: readonly Operation<unknown, unknown>[]) {
  const { logger, metrics, telemetry } = createPowertools(functionName);
  const config = readOperateConfig(process.env);
  const sessions = new SessionProvider(
    (knownNodes) =>
      new Valkey(config.valkey, {
        knownNodes,
        onConnectionError: ({ message }) =>
          telemetry.warn("connection to Valkey failed", { reason: message }),
      }),
    (valkey) => servicesOn(valkey, config),
  );
  return middy<unknown, RemoteAnswer>()
    .use(injectLambdaContext(logger))
    .use(logMetrics(metrics))
    .handler((event: unknown, context: Context) =>
      answerRequest(
        {
          functionName: context.functionName,
          operations,
          services: async () => {
            const session = await sessions.get();
            if (session.startupInfo.edition !== undefined) return session.startupInfo;
            // The library may have been loaded since the client connected.
            return (await sessions.replace(session)).startupInfo;
          },
          telemetry,
          requestId: context.awsRequestId,
          deadlineMs: Date.now() + context.getRemainingTimeInMillis() - RESERVED_MS,
        },
        event,
      ),
    );
}

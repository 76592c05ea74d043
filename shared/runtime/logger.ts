import { Logger } from "@aws-lambda-powertools/logger";
import { readLogLevel } from "#shared/runtime/environment.ts";

/** Creates the logger of a program. `service` is the program's name. The level comes from the environment. */
export function createLogger(service: string): Logger {
  // A level that is not valid is an error of the configuration, which the program reads next.
  const logLevel = readLogLevel(process.env, []);
  return new Logger({ serviceName: `sluice-${service}`, ...(logLevel === undefined ? {} : { logLevel }) });
}

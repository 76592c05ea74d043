/** Runs operations on the deployment that the options of a command name. */

import { hostname, userInfo } from "node:os";
import type { OptionValues } from "commander";
import type { Operation } from "#operate/operation.ts";
import { runOperation } from "#operate/run-operation.ts";
import { openServices, readOperateConfig } from "#operate/services.ts";
import { ConfigurationError, InvalidRequestError } from "#shared/errors.ts";
import { type Environment, isSet } from "#shared/runtime/environment.ts";

export interface Runner extends Disposable {
  run<Input, Output>(operation: Operation<Input, Output>, input: Input): Promise<Output>;
}

/** A call over a direct connection has no platform's limit, but ends. Milliseconds. */
const TIME_LIMIT_MS = 15 * 60_000;

/** Options that select the deployment. */
export interface DeploymentOptions extends OptionValues {
  readonly valkeyUrl?: string;
  readonly cluster?: true;
  /** A deployed stage, whose functions run the operations. */
  readonly stage?: string;
  readonly region?: string;
}

/**
 * Returns the environment with the options' values in place of its own.
 *
 * @throws InvalidRequestError if the options name more than one deployment.
 */
export function environmentOf(options: DeploymentOptions, environment: Environment): Environment {
  const { valkeyUrl, cluster, stage, region } = options;
  if (stage !== undefined && (valkeyUrl !== undefined || cluster !== undefined)) {
    throw new InvalidRequestError([
      "--stage runs the command in the functions of a deployed stage, which have their own Valkey: omit --valkey-url and --cluster",
    ]);
  }
  if (stage === undefined && region !== undefined) {
    throw new InvalidRequestError(["--region is the region of a deployed stage: add --stage"]);
  }
  if (valkeyUrl === undefined && cluster === undefined) return environment;
  // The rest of the environment may belong to another server.
  const address =
    valkeyUrl === undefined
      ? {}
      : { VALKEY_URL: valkeyUrl, VALKEY_CLUSTER_MODE: "false", VALKEY_AUTH: "url" };
  return { ...environment, ...address, ...(cluster === true ? { VALKEY_CLUSTER_MODE: "true" } : {}) };
}

/**
 * Connects to Valkey and the queues.
 *
 * @throws ConfigurationError if the environment is invalid, or names no server.
 */
export async function openRunner(environment: Environment, onError: (error: Error) => void): Promise<Runner> {
  if (!isSet(environment, "VALKEY_URL")) {
    throw new ConfigurationError([
      "no deployment is named: pass --valkey-url redis://host:port or the --stage of a deployment on AWS, or set VALKEY_URL. " +
        "`sluice dev` starts a deployment on this machine, which commands in the same folder use",
    ]);
  }
  const services = await openServices(readOperateConfig(environment), onError);
  const actor = actorName();
  return {
    run: (operation, input) =>
      runOperation(operation, services, input, { actor, deadlineMs: Date.now() + TIME_LIMIT_MS }),
    [Symbol.dispose]: () => services.close(),
  };
}

/** The user of this machine, as the audit trail names it. */
export function actorName(): string {
  return `${userName()}@${hostname()}`;
}

function userName(): string {
  try {
    return userInfo().username;
  } catch (_noEntry) {
    // A container can run under a user id without a name.
    return String(process.getuid?.() ?? "unknown");
  }
}

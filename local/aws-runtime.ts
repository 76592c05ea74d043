import { fork } from "node:child_process";
import { existsSync } from "node:fs";
import { basename, dirname, extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { FunctionOptions, RunningFunction } from "#local/function-settings.ts";
import { arnOf, childOptions } from "#local/function-settings.ts";
import { RuntimeApi } from "#local/runtime-api.ts";
import { ConfigurationError } from "#shared/errors.ts";

const GUARD = new URL("function-guard.ts", import.meta.url).href;
const STAND_IN = new URL("rapid-client-stand-in.ts", import.meta.url).href;

/** AWS's Lambda runtime interface client for Node.js (aws-lambda-ric). */
export interface AwsRuntimeClient {
  /** The path of its program. */
  readonly path: string;
  /** Whether its native HTTP client was built: the installation of the package needs cmake and a compiler for it. */
  readonly isNative: boolean;
}

/** Undefined if the package is not installed. */
export function findAwsRuntimeClient(): AwsRuntimeClient | undefined {
  let path: string;
  try {
    path = fileURLToPath(import.meta.resolve("aws-lambda-ric"));
  } catch (_notInstalled) {
    return undefined;
  }
  return existsSync(path)
    ? { path, isNative: existsSync(join(dirname(path), "rapid-client.node")) }
    : undefined;
}

/**
 * Starts a function on AWS's runtime client, with a local Runtime API that serves this function only. `native` selects
 * the client's native HTTP part if it was built. Throws a ConfigurationError if the client is not installed.
 */
export async function startOnAwsRuntime(
  options: FunctionOptions,
  { native }: { readonly native: boolean },
): Promise<RunningFunction> {
  const client = findAwsRuntimeClient();
  if (client === undefined) {
    throw new ConfigurationError(["aws-lambda-ric is not installed: run npm run setup"]);
  }
  const api = await RuntimeApi.listen(arnOf(options));
  const module = basename(options.bundle, extname(options.bundle));
  const taskRoot = dirname(options.bundle);
  const preloads = native && client.isNative ? [GUARD] : [GUARD, STAND_IN];
  const child = fork(client.path, [], {
    ...childOptions(options, {
      LAMBDA_TASK_ROOT: taskRoot,
      _HANDLER: `${module}.handler`,
      AWS_LAMBDA_RUNTIME_API: api.address,
      AWS_LAMBDA_LOG_GROUP_NAME: `/aws/lambda/${options.functionName}`,
      AWS_LAMBDA_LOG_STREAM_NAME: `local/${process.pid}`,
    }),
    cwd: taskRoot,
    execArgv: ["--enable-source-maps", ...preloads.map((url) => `--import=${url}`)],
  });
  return {
    child,
    ready: api.ready,
    exchange: (invocation) => api.exchange(invocation),
    close: () => api.close(),
  };
}

import { findAwsRuntimeClient } from "#local/aws-runtime.ts";
import type { FunctionRuntime } from "#local/function-settings.ts";

/**
 * AWS's runtime client, for `describe.each`: with ours in the place of its native HTTP client, which runs everywhere,
 * and with its own where that is built.
 */
export const AWS_RUNTIMES: readonly FunctionRuntime[] = [
  "aws-without-native",
  ...(findAwsRuntimeClient()?.isNative ? (["aws"] as const) : []),
];

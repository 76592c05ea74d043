import { findAwsRuntimeClient } from "#local/aws-runtime.ts";
import type { FunctionRuntime } from "#local/function-settings.ts";

/**
 * The AWS Lambda runtime interface client, for `describe.each`: with a JavaScript replacement of its native HTTP
 * client, which runs everywhere, and with the native one if it is built.
 */
export const AWS_RUNTIMES: readonly FunctionRuntime[] = [
  "aws-without-native",
  ...(findAwsRuntimeClient()?.isNative ? (["aws"] as const) : []),
];

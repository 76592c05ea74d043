/** Starts a function's process, prints its id, and waits. A test kills this program and expects the process to end. */

import { FunctionProcess } from "#local/function-process.ts";
import type { FunctionRuntime } from "#local/function-settings.ts";

const RUNTIMES: readonly FunctionRuntime[] = ["own", "aws", "aws-without-native"];
const [bundle = "", runtime] = process.argv.slice(2);

const environment = new FunctionProcess({
  functionName: "fake",
  bundle,
  environment: {},
  timeoutMs: 60_000,
  runtime: RUNTIMES.find((one) => one === runtime) ?? "own",
  onOutput: (text) => process.stderr.write(text),
});
await environment.invoke("none");
console.log(environment.pid);
await environment.invoke("wait");

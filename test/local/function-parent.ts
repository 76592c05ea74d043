/** A program for the test of orphans: starts a function's process, prints its id, and waits for its own end. */

import { FunctionProcess } from "#local/function-process.ts";

const environment = new FunctionProcess({
  functionName: "fake",
  bundle: process.argv[2] ?? "",
  environment: {},
  timeoutMs: 60_000,
  onOutput: (text) => process.stderr.write(text),
});
await environment.invoke("none");
console.log(environment.pid);
await environment.invoke("hang");

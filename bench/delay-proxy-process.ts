/** Runs the delay proxy in a separate process, so that it does not slow down the code under test. */

import { DelayProxy } from "#bench/delay-proxy.ts";

const [url = "", delayMs = "", writeDelayMs] = process.argv.slice(2);
// The parent process has ended.
process.on("disconnect", () => process.exit(0));
const proxy = await DelayProxy.before(
  new URL(url),
  Number(delayMs),
  writeDelayMs === undefined ? undefined : Number(writeDelayMs),
);
process.send?.({ port: proxy.port });

import { fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

const PROXY = fileURLToPath(new URL("delay-proxy-process.ts", import.meta.url));

/** A connection to a server with a simulated latency. */
export interface Network extends AsyncDisposable {
  readonly url: URL;
}

/**
 * Starts a delay proxy for a server in a child process. `delayMs` is the delay of each direction, `writeDelayMs` the
 * additional delay of each reply to a write.
 */
export async function startNetwork(server: URL, delayMs: number, writeDelayMs?: number): Promise<Network> {
  const delays = writeDelayMs === undefined ? [delayMs] : [delayMs, writeDelayMs];
  const child = fork(PROXY, [server.href, ...delays.map(String)], {
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });
  const exited = once(child, "exit");
  const [started]: unknown[] = await Promise.race([
    once(child, "message"),
    exited.then(() => Promise.reject(new Error("the delay proxy did not start"))),
  ]);
  const url = new URL(server);
  url.port = String(portOf(started));
  return {
    url,
    async [Symbol.asyncDispose]() {
      child.disconnect();
      await exited;
    },
  };
}

function portOf(message: unknown): number {
  if (typeof message === "object" && message !== null && "port" in message) return Number(message.port);
  throw new TypeError("the delay proxy did not report its port");
}

import { type ChildProcess, spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { LOCALSTACK_VERSION, localStackPython } from "#local/localstack-package.ts";
import { ownServer, type QueueServer } from "#local/queue-server.ts";
import { freePorts, guardOf, HOST } from "#local/valkey-process.ts";

const START_DEADLINE_MS = 60_000;
const POLL_MS = 100;
const LOG_LINES_KEPT = 30;

/**
 * Starts LocalStack's SQS from its Python package on a free loopback port. All its files are in a temporary folder that
 * is removed with it. Rejects with the end of its log if it does not start in time.
 */
export async function startLocalStack(say: (line: string) => void): Promise<QueueServer> {
  const python = await localStackPython(say);
  const [port] = await freePorts(1);
  const endpoint = `http://${HOST}:${port}`;
  const folder = await mkdtemp(join(tmpdir(), "sluice-localstack-"));
  const child = spawn(python, ["-m", "localstack.runtime.main"], {
    // A new process group: Ctrl-C in a terminal reaches only this process, which stops LocalStack at its end.
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
    cwd: folder,
    env: { PATH: process.env.PATH, ...settings(`${HOST}:${port}`, folder) },
  });
  const guard = guardOf(child, folder);
  const exited = new Promise<void>((resolve) => {
    child.once("exit", () => resolve());
    child.once("error", () => resolve());
  });
  const stop = async (): Promise<void> => {
    // A regular shutdown takes seconds, and there is nothing to save.
    child.kill("SIGKILL");
    await exited;
    guard?.kill("SIGKILL");
    await rm(folder, { recursive: true, force: true });
  };
  const log = keepLastLines(child);
  if (!(await isReady(endpoint, exited))) {
    await stop();
    throw new Error(`LocalStack did not start:\n${log.join("\n")}`);
  }
  return ownServer(`LocalStack ${LOCALSTACK_VERSION}`, endpoint, stop);
}

function settings(listen: string, folder: string): Record<string, string> {
  return {
    SERVICES: "sqs",
    EAGER_SERVICE_LOADING: "1",
    GATEWAY_LISTEN: listen,
    // The default server ignores the address of GATEWAY_LISTEN and listens on all interfaces.
    GATEWAY_SERVER: "hypercorn",
    // No telemetry and no downloads.
    DISABLE_EVENTS: "1",
    SKIP_SSL_CERT_DOWNLOAD: "1",
    SQS_DISABLE_CLOUDWATCH_METRICS: "1",
    DNS_ADDRESS: "0",
    HOME: folder,
    FILESYSTEM_ROOT: join(folder, "filesystem"),
    LOCALSTACK_VOLUME_DIR: join(folder, "volume"),
  };
}

async function isReady(endpoint: string, exited: Promise<void>): Promise<boolean> {
  let hasExited = false;
  void exited.then(() => {
    hasExited = true;
  });
  const deadline = performance.now() + START_DEADLINE_MS;
  while (!hasExited && performance.now() < deadline) {
    if (await isSqsRunning(endpoint)) return true;
    await sleep(POLL_MS);
  }
  return false;
}

async function isSqsRunning(endpoint: string): Promise<boolean> {
  try {
    const health = await fetch(`${endpoint}/_localstack/health`, { signal: AbortSignal.timeout(2_000) });
    return /"sqs": *"(running|available)"/.test(await health.text());
  } catch (_notYet) {
    return false;
  }
}

/** Collects the last lines of the output. It reads until the process ends, since a full pipe would block it. */
function keepLastLines(child: ChildProcess): readonly string[] {
  const lines: string[] = [];
  child.once("error", (error) => lines.push(error.message));
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding("utf8").on("data", (text: string) => {
      lines.push(...text.split("\n").filter((line) => line !== ""));
      lines.splice(0, Math.max(0, lines.length - LOG_LINES_KEPT));
    });
  }
  return lines;
}

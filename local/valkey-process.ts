import { type ChildProcess, spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

export const HOST = "127.0.0.1";
const START_DEADLINE_MS = 20_000;
const STOP_DEADLINE_MS = 5_000;
const LOG_LINES_KEPT = 30;
const READY = "Ready to accept connections";
/** Waits for the end of standard input, then kills the process $1 and removes the folder $2. */
const GUARD = 'trap "" INT TERM HUP; cat >/dev/null; kill -9 "$1" 2>/dev/null; rm -rf "$2"';

/** The process of a server that accepts connections. */
export interface ValkeyProcess {
  readonly pid: number;
  /** Resolves when the process has ended, for whatever reason. */
  readonly exited: Promise<void>;
  /** Ends the server and removes its folder. A second call has no effect. */
  stop(): Promise<void>;
}

/** The result of a start: the process, or the last log lines of a server that did not get ready. */
export type Launch =
  | { readonly ok: true; readonly server: ValkeyProcess }
  | { readonly ok: false; readonly log: string };

/**
 * Starts a server in a temporary folder and waits until it is ready.
 *
 * A guard process kills the server when this process ends: it waits for the end of a pipe, which the kernel closes even
 * after SIGKILL.
 */
export async function launch(
  executable: string,
  port: number,
  extraArgs: readonly string[],
): Promise<Launch> {
  const folder = await mkdtemp(join(tmpdir(), "sluice-valkey-"));
  const args = ["--port", String(port), "--bind", HOST, "--dir", folder, "--save", "", "--appendonly", "no"];
  // A new process group: Ctrl-C in a terminal reaches only this process, which stops the server at its end.
  const child = spawn(executable, [...args, ...extraArgs], {
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
  });
  const guard = guardOf(child, folder);
  const exited = new Promise<void>((resolve) => {
    child.once("exit", () => resolve());
    child.once("error", () => resolve());
  });
  const discard = async (): Promise<void> => {
    await end(child, exited);
    guard?.kill("SIGKILL");
    await rm(folder, { recursive: true, force: true });
  };
  const readiness = await untilReady(child, exited);
  if (!readiness.ready || child.pid === undefined) {
    await discard();
    return { ok: false, log: readiness.log };
  }
  let stopped: Promise<void> | undefined;
  const stop = (): Promise<void> => {
    stopped ??= discard();
    return stopped;
  };
  return { ok: true, server: { pid: child.pid, exited, stop } };
}

/** Starts a process that kills a server and removes its folder when this process ends in any way. */
export function guardOf(child: ChildProcess, folder: string): ChildProcess | undefined {
  if (child.pid === undefined) return undefined;
  const guard = spawn("sh", ["-c", GUARD, "guard", String(child.pid), folder], {
    detached: true,
    stdio: ["pipe", "ignore", "ignore"],
  });
  // After the server's exit, its process id may be reused.
  child.once("exit", () => guard.kill("SIGKILL"));
  guard.stdin?.on("error", () => guard.kill("SIGKILL"));
  guard.unref();
  if (guard.stdin !== null && "unref" in guard.stdin && typeof guard.stdin.unref === "function") {
    guard.stdin.unref();
  }
  return guard;
}

async function untilReady(
  child: ChildProcess,
  exited: Promise<void>,
): Promise<{ ready: boolean; log: string }> {
  const lines: string[] = [];
  const ready = new Promise<boolean>((resolve) => {
    child.once("error", (error) => lines.push(error.message));
    // Reads until the server ends, since a full pipe would block it.
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding("utf8").on("data", (text: string) => {
        lines.push(...text.split("\n").filter((line) => line !== ""));
        lines.splice(0, Math.max(0, lines.length - LOG_LINES_KEPT));
        if (text.includes(READY)) resolve(true);
      });
    }
  });
  const late = new AbortController();
  const deadline = sleep(START_DEADLINE_MS, false, { signal: late.signal }).catch(() => false);
  const isReady = await Promise.race([ready, exited.then(() => false), deadline]);
  late.abort();
  return { ready: isReady, log: lines.join("\n") };
}

async function end(child: ChildProcess, exited: Promise<void>): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  child.kill("SIGTERM");
  const timer = setTimeout(() => child.kill("SIGKILL"), STOP_DEADLINE_MS);
  await exited;
  clearTimeout(timer);
}

/** Returns ports that are free now. Another process may take one before it is used. */
export async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(Array.from({ length: count }, listening));
  const ports = servers.map(portOf);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

function listening(): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, HOST, () => resolve(server));
  });
}

function portOf(server: Server): number {
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("the listener has no port");
  return address.port;
}

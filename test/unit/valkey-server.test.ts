import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { findValkeyServer, startValkey } from "#local/valkey-server.ts";
import { ConfigurationError } from "#shared/errors.ts";
import { connectTo } from "#test/support/valkey.ts";

let folder: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "sluice-test-"));
  writeFileSync(join(folder, "valkey-server"), "#!/bin/sh\n");
  chmodSync(join(folder, "valkey-server"), 0o755);
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ESRCH") return false;
    throw error;
  }
}

test("the variable takes precedence over PATH", () => {
  const named = join(folder, "valkey-server");
  expect(findValkeyServer({ VALKEY_SERVER: named, PATH: "" })).toBe(named);
});

test("a variable without an executable is an error, whatever PATH contains", () => {
  const environment = { VALKEY_SERVER: join(folder, "absent"), PATH: folder };
  expect(() => findValkeyServer(environment)).toThrow(ConfigurationError);
  expect(() => findValkeyServer({ VALKEY_SERVER: folder, PATH: folder })).toThrow(/not an executable file/);
});

test("a server replies until it is stopped, and stop can be called repeatedly", async () => {
  const server = await startValkey({ extraArgs: ["--maxmemory-policy", "noeviction"] });
  const valkey = connectTo({ url: server.url, cluster: false });
  expect(await valkey.call("config", "GET", "maxmemory-policy")).toEqual(["maxmemory-policy", "noeviction"]);
  valkey.close();
  await Promise.all([server.stop(), server.stop()]);
  expect(isAlive(server.pid)).toBe(false);
});

test("a server that cannot start rejects with its log", async () => {
  await expect(startValkey({ extraArgs: ["--no-such-setting", "1"] })).rejects.toThrow(/no-such-setting/);
});

test("a server does not outlive a process that is killed", async () => {
  const module = new URL("../../local/valkey-server.ts", import.meta.url).href;
  const script = `
    const { startValkey } = await import(${JSON.stringify(module)});
    const server = await startValkey();
    console.log(server.port);
  `;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [port] = (await once(child.stdout, "data")).map(Number);
  if (port === undefined) throw new Error("the script printed no port");
  expect(await isListening(port)).toBe(true);
  child.kill("SIGKILL");
  // Check the port and not the process table: init may never reap an orphan.
  await vi.waitUntil(async () => !(await isListening(port)), { timeout: 10_000, interval: 50 });
});

function isListening(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}

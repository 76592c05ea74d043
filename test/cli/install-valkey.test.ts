import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { findValkeyServer } from "#local/valkey-server.ts";
import { startProgram } from "#test/support/program.ts";

const MAIN = fileURLToPath(new URL("../../cli/main.ts", import.meta.url));

test("sluice install-valkey prints the path of a server that works", async () => {
  const server = findValkeyServer();
  const { code, stdout } = await startProgram(MAIN, ["install-valkey"], { VALKEY_SERVER: server }).ended;
  expect(stdout).toBe(`${server}\n`);
  expect(code).toBe(0);
});

test("sluice install-valkey exits with 2 if VALKEY_SERVER names no server", async () => {
  const { code, stdout, stderr } = await startProgram(MAIN, ["install-valkey"], { VALKEY_SERVER: "/nowhere" })
    .ended;
  expect(stderr).toBe("sluice: VALKEY_SERVER names /nowhere, which cannot be started\n");
  expect(stdout).toBe("");
  expect(code).toBe(2);
});

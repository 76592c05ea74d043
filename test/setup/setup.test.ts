import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const SETUP = fileURLToPath(new URL("../../scripts/setup.mjs", import.meta.url));
const PACKAGE = fileURLToPath(new URL("../../package.json", import.meta.url));

/** The real program on the packages of this project, which are installed. */
function run(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [SETUP, ...args], {
    encoding: "utf8",
    env: { PATH: process.env.PATH, VALKEY_SERVER: "/nowhere/valkey-server" },
  });
  return { status, stdout, stderr };
}

test("--packages-only succeeds on a machine whose valkey-server cannot be found", () => {
  expect(run()).toEqual({
    status: 1,
    stdout: "",
    stderr: expect.stringContaining("VALKEY_SERVER names /nowhere/valkey-server, which cannot be started"),
  });
  expect(run("--packages-only")).toEqual({ status: 0, stdout: "", stderr: "" });
});

test("--help explains the arguments; an unknown one has exit status 2", () => {
  expect(run("--help")).toMatchObject({ status: 0, stderr: expect.stringContaining("--packages-only") });
  expect(run("--package-only")).toMatchObject({
    status: 2,
    stderr: expect.stringContaining('unknown argument "--package-only"'),
  });
  expect(run("--browser", "--packages-only")).toMatchObject({ status: 2 });
});

test.each(["package", "deploy", "deploy:local", "lint:templates", "relay", "check"])(
  "npm run %s needs no valkey-server",
  (name) => {
    const { scripts }: { scripts: Record<string, string> } = JSON.parse(readFileSync(PACKAGE, "utf8"));
    expect(scripts[name]).toMatch(/^node scripts\/setup\.mjs --packages-only && exec /);
  },
);

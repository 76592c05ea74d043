import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { COMMANDS } from "#cli/commands.ts";
import { cliReference, cliSchema } from "#cli/reference.ts";
import { environmentFor, sluice } from "#test/cli/support.ts";
import { startProgram } from "#test/support/program.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

const ROOT = new URL("../../", import.meta.url);
const MAIN = fileURLToPath(new URL("cli/main.ts", ROOT));
const [deployment] = DEPLOYMENTS;

function read(path: string): string {
  return readFileSync(new URL(path, ROOT), "utf8");
}

describe("the reference", () => {
  it("is current: else run npm run docs:cli", () => {
    expect(cliReference(COMMANDS)).toBe(read("docs/cli.md"));
    expect(cliSchema(COMMANDS)).toBe(read("schema/cli.json"));
  });
});

describe("the program", () => {
  it("prints the version of the package", async () => {
    const { version } = JSON.parse(read("package.json"));
    const { code, stdout } = await startProgram(MAIN, ["--version"]).ended;
    expect({ code, stdout }).toEqual({ code: 0, stdout: `${version}\n` });
  });

  it("does not exit with 0 if its output could not be written", () => {
    // A shell opens standard output for reading only.
    const line = 'exec "$0" "$1" --version 1</dev/null';
    const { status } = spawnSync("sh", ["-c", line, process.execPath, MAIN]);
    expect(status).toBe(141);
  });

  it.each(COMMANDS.map(({ name }) => name))("explains %s and its exit codes", async (name) => {
    const { code, stdout } = await sluice([...name.split(" "), "--help"]);
    expect(code).toBe(0);
    expect(stdout).toContain(`Usage: sluice ${name}`);
    expect(stdout).toMatch(/\nExit codes: 0 done, 1 .+, 2 wrong arguments or environment\.\n/);
    expect(stdout).toMatch(/\nExamples:\n {2}sluice /);
  });

  it("suggests a command for a misspelt one", async () => {
    const { code, stderr } = await sluice(["audti"]);
    expect(code).toBe(2);
    expect(stderr).toContain("Did you mean audit?");
  });

  it("says what to do when no deployment is named", async () => {
    const { code, stderr } = await sluice(["audit"]);
    expect(code).toBe(2);
    expect(stderr).toContain(
      "pass --valkey-url redis://host:port or the --stage of a deployment on AWS, or set VALKEY_URL",
    );
  });

  it("reads the deployment from a file, and prefers the option", async () => {
    const folder = await mkdtemp(join(tmpdir(), "sluice-test-"));
    const file = join(folder, "deployment.env");
    await writeFile(file, "VALKEY_URL=redis://127.0.0.1:1\n");
    try {
      const wrong = await sluice(["audit", "--environment", file]);
      expect(wrong.code).toBe(1);
      expect(wrong.stderr).toContain("connection to Valkey failed");
      const url = String(environmentFor(deployment as (typeof DEPLOYMENTS)[number]).VALKEY_URL);
      expect((await sluice(["audit", "--environment", file, "--valkey-url", url])).code).toBe(0);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it("prints a stack trace only with --debug", async () => {
    const plain = await sluice(["audit", "--valkey-url", "redis://127.0.0.1:1"]);
    expect(plain.stderr).not.toContain("\n    at ");
    const debug = await sluice(["audit", "--debug", "--valkey-url", "redis://127.0.0.1:1"]);
    expect(debug.stderr).toContain("\n    at ");
  });
});

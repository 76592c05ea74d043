import { once } from "node:events";
import { mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { findValkeyServer } from "#local/valkey-server.ts";
import { parseOutput, sluice } from "#test/cli/support.ts";
import { descendantsOf, isRunning } from "#test/local/processes.ts";
import { startProgram } from "#test/support/program.ts";

const MAIN = fileURLToPath(new URL("../../cli/main.ts", import.meta.url));
const EXAMPLE = fileURLToPath(new URL("../../examples/nightly-report.json", import.meta.url));
const TIMEOUT = 60_000;

/** Starts `sluice dev` in a folder of its own, and waits until everything runs. `parts` ends it. */
async function startDev(
  parts: AsyncDisposableStack,
  options: readonly string[] = [],
  environment: Readonly<Record<string, string>> = {},
) {
  const folder = await mkdtemp(join(tmpdir(), "sluice-dev-folder-"));
  parts.defer(() => rm(folder, { recursive: true }));
  const args = ["dev", "--port", "0", ...options];
  const program = startProgram(MAIN, args, { VALKEY_SERVER: findValkeyServer(), ...environment }, "", folder);
  const { child } = program;
  parts.defer(() => {
    child.kill("SIGKILL");
  });
  let printed = "";
  child.stdout.on("data", (text: string) => {
    printed += text;
  });
  while (!printed.includes("Ctrl-C")) await once(child.stdout, "data");
  return { ...program, folder, printed };
}

test(
  "sluice dev serves the page, is reached by other commands, and leaves nothing behind after Ctrl-C",
  async () => {
    await using parts = new AsyncDisposableStack();
    const temporary = await mkdtemp(join(tmpdir(), "sluice-dev-test-"));
    parts.defer(() => rm(temporary, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 }));
    const { child, ended, folder, printed } = await startDev(parts, ["--lane", "default", "--lane", "it's"], {
      TMPDIR: temporary,
    });
    const url = /http:\/\/127\.0\.0\.1:\d+\/#token=[\w-]{32}/.exec(printed)?.[0] ?? "";
    const variables = Object.fromEntries(
      [...printed.matchAll(/^ {2}(\w+)=(.*)$/gm)].map(([, ...pair]) => pair),
    );
    expect(JSON.parse(variables.READY_QUEUES)).toEqual({
      default: expect.stringContaining("http://127.0.0.1:"),
      "it's": expect.stringContaining("http://127.0.0.1:"),
    });
    expect(await (await fetch(url)).text()).toContain('<script type="module" src="/app.js">');
    const audit = await sluice(["audit"], { environment: variables });
    expect(audit).toMatchObject({ code: 0, stdout: "no change is recorded\n" });
    // In the same folder, other commands need no variables. Its roots are announced in a queue: the AWS SDK has them as well.
    const submitted = await startProgram(MAIN, ["submit", EXAMPLE, "--yes", "--json"], {}, "", folder).ended;
    expect(submitted).toMatchObject({
      code: 0,
      stderr: "sluice: the deployment is that of `sluice dev` (.sluice/dev.env)\n",
    });
    const { flow_id: flow } = parseOutput("submit", submitted.stdout);
    expect((await sluice(["graph", flow], { environment: variables })).stdout).toContain("12 executions");
    const processes = descendantsOf(child.pid ?? 0);
    expect(processes.map(({ command }) => command).join("\n")).toContain("valkey-server");
    child.kill("SIGINT");
    expect((await ended).code).toBe(0);
    expect(processes.filter(({ pid }) => isRunning(pid))).toEqual([]);
    expect(await readdir(temporary)).toEqual([]);
    expect(await readdir(join(folder, ".sluice"))).toEqual([]);
  },
  TIMEOUT,
);

test("a command says what to do with the file of a `sluice dev` that was killed", async () => {
  const folder = await mkdtemp(join(tmpdir(), "sluice-dev-folder-"));
  try {
    await mkdir(join(folder, ".sluice"));
    await writeFile(join(folder, ".sluice/dev.env"), "VALKEY_URL='redis://127.0.0.1:1'\n");
    const { code, stderr } = await startProgram(MAIN, ["audit"], {}, "", folder).ended;
    expect(code).toBe(1);
    expect(stderr).toMatch(/start it again, or delete \.sluice\/dev\.env\n$/);
  } finally {
    await rm(folder, { recursive: true });
  }
});

test.each([
  [["--port", "70000"], "Expected a port, 0 to 65535."],
  [["--port", "x"], "Expected a port, 0 to 65535."],
  [["--lane", ""], "lane"],
])("sluice dev %j is used wrongly", async (args, message) => {
  const { code, stderr } = await sluice(["dev", ...args]);
  expect(code).toBe(2);
  expect(stderr).toContain(message);
});

test(
  "sluice dev ends with 1 when its Valkey server has ended",
  async () => {
    await using parts = new AsyncDisposableStack();
    const { child, ended } = await startDev(parts);
    const [server] = descendantsOf(child.pid ?? 0).filter(({ command }) =>
      /valkey-server [\d.]+:/.test(command),
    );
    if (server === undefined) throw new Error("sluice dev runs no Valkey server");
    process.kill(server.pid, "SIGKILL");
    const { code, stderr } = await ended;
    expect(stderr).toContain("the Valkey server has ended, and its data is gone: start again");
    expect(code).toBe(1);
  },
  TIMEOUT,
);

import { execFile } from "node:child_process";
import { cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, it, onTestFinished } from "vitest";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const run = promisify(execFile);

/** The words of each line of the Dockerfile that begins with the instruction. */
async function instructions(name: string): Promise<string[][]> {
  const text = (await readFile(join(ROOT, "relay/Dockerfile"), "utf8")).replaceAll("\\\n", " ");
  return text.split("\n").flatMap((line) => {
    const [first, ...words] = line.trim().split(/\s+/);
    return first === name ? [words] : [];
  });
}

/** A folder with what the image has, and with the packages of this project that are no development dependencies. */
async function unpacked(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "sluice-relay-image-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  for (const words of await instructions("COPY")) {
    const target = join(folder, words.at(-1) ?? "");
    for (const source of words.slice(0, -1)) {
      const isFile = /\.\w+$|^\./.test(basename(source));
      await mkdir(isFile ? target : join(target, ".."), { recursive: true });
      await cp(join(ROOT, source), isFile ? join(target, basename(source)) : target, { recursive: true });
    }
  }
  const { packages } = JSON.parse(await readFile(join(ROOT, "package-lock.json"), "utf8"));
  for (const [path, { dev = false, devOptional = false }] of Object.entries<Record<string, boolean>>(
    packages,
  )) {
    if (!/^node_modules\/(?:@[^/]+\/)?[^/]+$/.test(path) || dev || devOptional) continue;
    await mkdir(join(folder, path, ".."), { recursive: true });
    await symlink(join(ROOT, path), join(folder, path));
  }
  return folder;
}

it("the image has all that the relay needs, and its command starts it", async () => {
  const folder = await unpacked();
  const command: unknown = JSON.parse((await instructions("CMD")).at(-1)?.join(" ") ?? "");
  const [program, ...args] = Array.isArray(command) ? command.map(String) : [];
  expect(program).toBe("node");
  const env = { PATH: process.env.PATH };
  const { stdout } = await run(process.execPath, [...args, "--help"], { cwd: folder, env });
  expect(stdout).toContain("Usage:");
  // What is loaded when it is needed first is there as well.
  for (const path of ["shared/valkey/iam-token.ts", "shared/valkey/secret.ts", "shared/queue/sdk.ts"]) {
    await run(process.execPath, ["--input-type=module", "-e", `await import("./${path}")`], {
      cwd: folder,
      env,
    });
  }
});

it("the health check tells a file that was written within the last minute from an old one, or none", async () => {
  const folder = await mkdtemp(join(tmpdir(), "sluice-relay-health-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  const [, check = ""] = /CMD (test .*)$/m.exec(await readFile(join(ROOT, "relay/Dockerfile"), "utf8")) ?? [];
  const file = join(folder, "hears");
  const isHealthy = async () => {
    const env = { PATH: process.env.PATH, RELAY_HEALTH_FILE: file };
    return run("sh", ["-c", check], { env }).then(
      () => true,
      () => false,
    );
  };
  expect(await isHealthy()).toBe(false);
  await writeFile(file, "");
  expect(await isHealthy()).toBe(true);
  await run("touch", ["-d", "2 minutes ago", file]);
  expect(await isHealthy()).toBe(false);
  // ECS runs the same check, from its own setting.
  const documented = await readFile(join(ROOT, "docs/relay.md"), "utf8");
  expect(documented).toContain(JSON.stringify(check).slice(1, -1));
});

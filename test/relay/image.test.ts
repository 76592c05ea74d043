import { execFile } from "node:child_process";
import { cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, it, onTestFinished } from "vitest";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const run = promisify(execFile);

/** The arguments of each use of an instruction in the Dockerfile. */
async function instructions(name: string): Promise<string[][]> {
  const text = (await readFile(join(ROOT, "relay/Dockerfile"), "utf8")).replaceAll("\\\n", " ");
  return text.split("\n").flatMap((line) => {
    const [first, ...words] = line.trim().split(/\s+/);
    return first === name ? [words] : [];
  });
}

/** A folder with the files of the image and links to this project's production dependencies. */
async function imageFolder(): Promise<string> {
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

it("the image contains every module that the relay loads, and its command starts the relay", async () => {
  const folder = await imageFolder();
  const command: unknown = JSON.parse((await instructions("CMD")).at(-1)?.join(" ") ?? "");
  const [program, ...args] = Array.isArray(command) ? command.map(String) : [];
  expect(program).toBe("node");
  const env = { PATH: process.env.PATH };
  const { stdout } = await run(process.execPath, [...args, "--help"], { cwd: folder, env });
  expect(stdout).toContain("Usage:");
  // Modules that are loaded on demand.
  for (const path of ["shared/valkey/iam-token.ts", "shared/valkey/secret.ts", "shared/queue/sdk.ts"]) {
    await run(process.execPath, ["--input-type=module", "-e", `await import("./${path}")`], {
      cwd: folder,
      env,
    });
  }
});

it("the health check passes with a file of the last minute, and fails with an older one or none", async () => {
  const folder = await mkdtemp(join(tmpdir(), "sluice-relay-health-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  const [, check = ""] = /CMD (test .*)$/m.exec(await readFile(join(ROOT, "relay/Dockerfile"), "utf8")) ?? [];
  const file = join(folder, "healthy");
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
  // ECS ignores HEALTHCHECK, so its task definition repeats the command.
  const documented = await readFile(join(ROOT, "docs/relay.md"), "utf8");
  expect(documented).toContain(JSON.stringify(check).slice(1, -1));
});

it("the image has the exact Node version of the tests", async () => {
  const { devDependencies } = JSON.parse(await readFile(join(ROOT, "package.json"), "utf8"));
  expect(await instructions("FROM")).toEqual([[`node:${devDependencies.node}-slim`]]);
});

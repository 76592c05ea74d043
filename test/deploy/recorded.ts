/** Runs the code of an artifact in a child process and records the environment variables that it reads. */

import { fork } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { at } from "#test/deploy/template.ts";
import { readZip } from "#test/deploy/zip.ts";

const PROCESS = fileURLToPath(new URL("recording-process.ts", import.meta.url));
const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const OUR_FOLDERS = /(?:^|\/)((?:shared|functions|lua|operate|sdk)\/.+\.ts)$/;

export interface Recording {
  /** All variables that were read. */
  readonly reads: ReadonlySet<string>;
  /** Those of them that Sluice's sources name, except for `AWS_…`, which Lambda reserves. */
  readonly ours: ReadonlySet<string>;
  /** Words in Sluice's sources that may be the names of variables. */
  readonly named: ReadonlySet<string>;
  /** Modules that cannot be loaded, with reasons. */
  readonly unloadable: readonly string[];
  /** The error of the handler; empty if it did not throw. */
  readonly failure: string;
  readonly files: readonly string[];
}

/** Runs an artifact. `handler` is the function's property Handler. */
export async function recorded(
  artifact: Buffer,
  handler: string,
  environment: Readonly<Record<string, string>>,
): Promise<Recording> {
  const folder = await mkdtemp(join(tmpdir(), "sluice-artifact-"));
  try {
    const files = readZip(artifact);
    for (const [path, content] of files) {
      await mkdir(dirname(join(folder, path)), { recursive: true });
      await writeFile(join(folder, path), content);
    }
    const report = await messageOf(folder, handler.replace(/\.\w+$/, ".mjs"), environment);
    const reads = new Set(listedIn(report, "reads"));
    const text = await ourSources(files);
    return {
      reads,
      ours: new Set([...reads].filter((name) => !name.startsWith("AWS_") && text.includes(name))),
      named: new Set(text.match(/\b[A-Z][A-Z_]+[A-Z]\b/g)),
      unloadable: listedIn(report, "unloadable"),
      failure: String(at(report, "failure")),
      files: [...files.keys()],
    };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function messageOf(
  folder: string,
  module: string,
  environment: Readonly<Record<string, string>>,
): Promise<unknown> {
  const child = fork(PROCESS, [folder, module], {
    env: { PATH: process.env.PATH, AWS_REGION: "us-east-1", ...environment },
    execArgv: [],
    stdio: ["ignore", "pipe", "pipe", "ipc"],
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding("utf8").on("data", (text: string) => {
      output += text;
    });
  }
  let report: unknown;
  child.on("message", (message) => {
    report = message;
  });
  await new Promise((resolve) => child.once("close", resolve));
  if (report === undefined) throw new Error(`the artifact could not be loaded:\n${output}`);
  return report;
}

/** The text of Sluice's sources in an artifact, found by its source maps. */
async function ourSources(files: ReadonlyMap<string, Buffer>): Promise<string> {
  const sources = new Set<string>();
  for (const [path, content] of files) {
    if (!path.endsWith(".map")) continue;
    for (const source of listedIn(JSON.parse(content.toString("utf8")), "sources")) {
      const own = source.includes("node_modules") ? undefined : OUR_FOLDERS.exec(source)?.[1];
      if (own !== undefined) sources.add(own);
    }
  }
  const texts = [...sources].map((source) => readFile(join(ROOT, source), "utf8"));
  return (await Promise.all(texts)).join("\n");
}

function listedIn(value: unknown, key: string): string[] {
  const list = at(value, key);
  return Array.isArray(list) ? list.map(String) : [];
}

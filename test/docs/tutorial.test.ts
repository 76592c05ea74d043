import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { mkdtemp, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { startTestStack } from "#local/test-stack.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const TIMEOUT = 400_000;
const run = promisify(execFile);

interface Step {
  readonly script: string;
  /** The lines that the last command prints. `…` stands for any text, and on a line of its own for any lines. */
  readonly expected: readonly string[] | undefined;
}

/** The shell scripts of a part of a page, each with the output that follows it. */
function stepsOf(path: string, start: string, end: string): Step[] {
  const page = readFileSync(`${ROOT}${path}`, "utf8");
  const part = page.slice(page.indexOf(start), page.indexOf(end));
  const blocks = [...part.matchAll(/^```(sh)?\n(.*?)^```$/gms)];
  return blocks.flatMap(([, language, text = ""], position): Step[] => {
    if (language !== "sh") return [];
    const next = blocks[position + 1];
    return [
      { script: text, expected: next?.[1] === undefined ? next?.[2]?.trimEnd().split("\n") : undefined },
    ];
  });
}

/** Matches the whole output, or its end if the script has several commands. */
function patternOf(expected: readonly string[]): RegExp {
  const lines = expected.map((line) =>
    line === "…"
      ? "(?:.*\\n)*"
      : `${line
          .split("…")
          .map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"))
          .join(".*")}\\n`,
  );
  return new RegExp(`^${lines.join("")}(?![^])`, "m");
}

test.each([
  ["docs/tutorial.md", "## 2.", "## Next", 8],
  ["README.md", "In another terminal", "The same commands work on AWS", 2],
])(
  "each command of %s prints what the page shows",
  async (path, start, end, least) => {
    await using parts = new AsyncDisposableStack();
    // Some commands write a file.
    const folder = await mkdtemp(join(tmpdir(), "sluice-tutorial-"));
    parts.defer(() => rm(folder, { recursive: true }));
    await symlink(`${ROOT}examples`, join(folder, "examples"));
    await using stack = await startTestStack({ lanes: ["default"] });
    const environment = { PATH: process.env.PATH, HOME: process.env.HOME, ...stack.environment };
    const execute = async (script: string): Promise<string> => {
      const { stdout } = await run("bash", ["-c", script], {
        cwd: folder,
        env: environment,
        timeout: TIMEOUT,
      });
      return stdout;
    };
    let prelude = `sluice() { "${process.execPath}" "${ROOT}cli/main.ts" "$@"; }\n`;
    const all = stepsOf(path, start, end);
    expect(all.length).toBeGreaterThanOrEqual(least);
    for (const { script, expected } of all) {
      const isChange = script.includes("--yes");
      // A problem that a command finds is its exit code 1.
      let output = await execute(`${prelude}${script}true`);
      if (expected !== undefined) {
        // Functions update the flow in the background. A command that only looks is repeated.
        for (let tries = 0; tries < 60 && !isChange && !patternOf(expected).test(output); tries += 1) {
          output = await execute(`${prelude}${script}true`);
        }
        expect(output).toMatch(patternOf(expected));
      }
      prelude += script.match(/^[A-Z]+=.*\n/gm)?.join("") ?? "";
    }
  },
  TIMEOUT,
);

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { styleFor } from "#cli/kit/terminal.ts";
import { visibleLine } from "#cli/kit/visible.ts";
import { environmentFor, parseOutput, sluice } from "#test/cli/support.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

const [deployment] = DEPLOYMENTS;
/** Clears the screen, sets the window's title, forges a line, begins a sequence in one byte, and turns the direction around. */
const NAME = "a\u001b[2J\u001b]0;b\u0007\r\nc\u009b1md\u202ee";
const SHOWN = "a?[2J?]0;b???c?1md?e";

it("keeps colors, and replaces everything else that a terminal obeys", () => {
  const { bold, dim, red, green, yellow, cyan } = styleFor(true, 80);
  const colored = [bold, dim, red, green, yellow, cyan].map((color) => color("日本 🎉")).join(" ");
  expect(visibleLine(colored)).toBe(colored);
  expect(visibleLine(red(NAME))).toBe(red(SHOWN));
});

it("shows the names of a workflow without its control characters, and writes them into JSON", async () => {
  const folder = await mkdtemp(join(tmpdir(), "sluice-test-"));
  const file = join(folder, "workflow.json");
  await writeFile(file, JSON.stringify({ name: NAME, tasks: [{ id: "one" }] }));
  const environment = environmentFor(deployment as (typeof DEPLOYMENTS)[number]);
  try {
    const shown = await sluice(["submit", file, "--dry-run"], { environment });
    expect(shown.stdout).toContain(`dry run: ${SHOWN} is valid: 1 task, 0 edges\n`);
    const asked = await sluice(["submit", file], { environment, answer: "no" });
    expect(asked.stderr).toContain(`dry run: ${SHOWN} is valid: 1 task, 0 edges\n`);
    const json = await sluice(["submit", file, "--dry-run", "--json"], { environment });
    expect(json.stdout).not.toMatch(/[\p{Cc}\u202e](?!$)/u);
    expect(parseOutput("submit", json.stdout).name).toBe(NAME);
  } finally {
    await rm(folder, { recursive: true });
  }
});

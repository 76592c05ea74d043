import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";

const MAIN = fileURLToPath(new URL("main.ts", import.meta.url));

function harness(...args: string[]): Promise<{ status: number; out: string; err: string }> {
  return new Promise((resolve) => {
    const child = execFile(process.execPath, [MAIN, ...args], (_, out, err) => {
      resolve({ status: child.exitCode ?? -1, out, err });
    });
  });
}

it("runs two cases and prints one line of JSON", async () => {
  const { status, out, err } = await harness("--only", "flush", "--cases", "2", "--seed", "7");
  expect(JSON.parse(out)).toEqual({
    cases: 2,
    lost: 0,
    wrongly_skipped: 0,
    duplicated: 0,
    inconsistent: 0,
    seconds: expect.any(Number),
  });
  expect(err).toMatch(/^seed 7\n/);
  expect(err).toContain("ok   flush       2 cases");
  expect(status).toBe(0);
});

it("names an unknown kind and exits with status 2", async () => {
  const { status, out, err } = await harness("--only", "weather");
  expect(status).toBe(2);
  expect(out).toBe("");
  expect(err).toContain("weather");
});

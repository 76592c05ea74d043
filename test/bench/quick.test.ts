import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { findValkeyServer } from "#local/valkey-server.ts";

const MAIN = fileURLToPath(new URL("../../bench/main.ts", import.meta.url));
const TIMEOUT = 240_000;
const NAMES = [
  "fanout",
  "delay",
  "durable",
  "skip",
  "batch",
  "lua",
  "cascade",
  "end_to_end",
  "reconcile",
  "overload",
  "submit",
  "list_flows",
  "cold",
  "memory",
  "cost",
  "capacity",
];

function bench(...args: string[]): Promise<{ code: unknown; stdout: string; stderr: string }> {
  const env = { PATH: process.env.PATH, VALKEY_SERVER: findValkeyServer() };
  return new Promise((resolve) => {
    execFile(process.execPath, [MAIN, ...args], { env }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : error.code, stdout, stderr });
    });
  });
}

describe("npm run bench", () => {
  it(
    "--quick --json runs every benchmark and prints one line of JSON",
    async () => {
      const { code, stdout, stderr } = await bench("--quick", "--json");
      expect(code, stderr).toBe(0);
      expect(stdout.trimEnd().split("\n")).toHaveLength(1);
      const report: Record<string, { rows: Record<string, unknown>[]; met: unknown }> = JSON.parse(stdout);
      const { machine, ...results } = report;
      expect(machine).toEqual({
        cores: expect.any(Number),
        cpu: expect.any(String),
        node: process.versions.node,
        valkey: expect.stringMatching(/^\d+\.\d+/),
        platform: expect.any(String),
      });
      expect(Object.keys(results)).toEqual(NAMES);
      for (const [name, { rows, met, ...rest }] of Object.entries(results)) {
        expect(rest, name).toEqual({
          measured: expect.any(String),
          not_shown: expect.any(String),
          seconds: expect.any(Number),
        });
        expect(met, `${name}: a quick run has no goals`).toBeNull();
        expect(rows.length, name).toBeGreaterThan(0);
        for (const { what, goals, ...figures } of rows) {
          expect(what).toEqual(expect.any(String));
          expect(goals).toEqual([]);
          expect(Object.keys(figures).length, name).toBeGreaterThan(0);
          for (const [figure, value] of Object.entries(figures)) {
            expect(value, `${name}, ${figure}`).toEqual(expect.any(Number));
          }
        }
      }
      const roundTrips = (name: string) => results[name]?.rows.map((row) => row.round_trips);
      expect(roundTrips("fanout")).toEqual([4, 4]);
      expect(roundTrips("skip")).toEqual([5]);
      expect(roundTrips("batch")).toEqual([4]);
    },
    TIMEOUT,
  );

  it(
    "--only runs the named benchmarks, and prints what they measure and what they do not show",
    async () => {
      const { code, stdout } = await bench("--quick", "--only", "lua", "--only", "skip");
      expect(code).toBe(0);
      expect(stdout).toMatch(/^\d+ cores/);
      expect([...stdout.matchAll(/^(\w+) \([\d.]+ s\)$/gm)].map(([, name]) => name)).toEqual(["skip", "lua"]);
      expect(stdout).toContain("not shown:");
      expect(stdout).not.toContain('{"machine"');
    },
    TIMEOUT,
  );

  it.each([
    { args: ["--only", "nothing"], error: /no benchmark "nothing"/ },
    { args: ["--fast"], error: /unknown option/ },
  ])("refuses $args", async ({ args, error }) => {
    const { code, stdout, stderr } = await bench(...args);
    expect(code).toBe(2);
    expect(stderr).toMatch(error);
    expect(stdout).toBe("");
  });

  it("--help lists the options and benchmarks", async () => {
    const { code, stdout } = await bench("--help");
    expect(code).toBe(0);
    for (const name of NAMES) expect(stdout).toContain(name);
  });
});

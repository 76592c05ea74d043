import { expect, test } from "vitest";
import { installPackages, isInstalled, PackagesError } from "#scripts/setup/packages.mjs";
import { ABSENT, Machine, OK } from "#test/setup/machine.ts";

const NODE = "/project/node_modules/.bin/node";
const NODE_24 = { ...OK, stdout: "v24.21.0\n" };

function lock(version: string): string {
  const packages = {
    "": { name: "sluice" },
    "node_modules/a": { version },
    "node_modules/elsewhere": { version: "1.0.0", optional: true },
  };
  return JSON.stringify({ packages });
}

function project(files: Record<string, string>, npm = OK) {
  const machine = new Machine({
    files: { "/project/package-lock.json": lock("1.0.0"), ...files },
    commands: { [NODE]: NODE_24, npm },
  });
  return Object.assign(machine, { root: "/project", architecture: "x64" });
}

const npmRuns = (machine: Machine) => machine.ran.filter((line) => line.startsWith("npm ci")).length;

test("installs once, and again when the lock file or the platform changes", () => {
  const machine = project({});
  expect(installPackages(machine)).toBe(true);
  expect(installPackages(machine)).toBe(false);
  expect(npmRuns(machine)).toBe(1);
  expect(machine.messages).toHaveLength(1);
  machine.files.set("/project/package-lock.json", lock("1.0.1"));
  expect(installPackages(machine)).toBe(true);
  expect(installPackages(Object.assign(machine, { architecture: "arm64" }))).toBe(true);
  expect(npmRuns(machine)).toBe(3);
});

test("accepts the result of npm ci if it matches the lock file", () => {
  const installed = JSON.stringify({ packages: { "node_modules/a": { version: "1.0.0" } } });
  const machine = project({ "/project/node_modules/.package-lock.json": installed });
  expect(installPackages(machine)).toBe(false);
  expect(npmRuns(machine)).toBe(0);
  expect(isInstalled(lock("1.0.1"), installed)).toBe(false);
  expect(isInstalled(lock("1.0.0"), JSON.stringify({ packages: {} }))).toBe(false);
  expect(isInstalled(lock("1.0.0"), undefined)).toBe(false);
  expect(isInstalled(lock("1.0.0"), "{ half a fi")).toBe(false);
});

test("installs again if the installed Node does not run", () => {
  const machine = project({});
  installPackages(machine);
  let isBroken = true;
  machine.commands.set(NODE, () => (isBroken ? ABSENT : NODE_24));
  machine.commands.set("npm", () => {
    isBroken = false;
    return OK;
  });
  expect(installPackages(machine)).toBe(true);
});

test("reports a missing npm, a failed installation, and a Node that does not run or is too old", () => {
  const failures: [Machine & { root: string; architecture: string }, RegExp][] = [
    [project({}, ABSENT), /npm cannot be started/],
    [project({}, { ...OK, status: 1 }), /npm ci failed with the status 1/],
    [
      Object.assign(project({}), { commands: new Map([["npm", OK]]) }),
      /npm rebuild node --ignore-scripts=false/,
    ],
    [
      Object.assign(project({}), {
        commands: new Map([
          ["npm", OK],
          [NODE, { ...OK, stdout: "v20.20.2\n" }],
        ]),
      }),
      /is Node v20\.20\.2, and 24 or later is needed/,
    ],
  ];
  for (const [machine, reason] of failures) {
    expect(() => installPackages(machine)).toThrow(reason);
    expect(() => installPackages(machine)).toThrow(PackagesError);
  }
});

import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { withLock } from "#scripts/setup/lock.mjs";

let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "sluice-lock-"));
  path = join(folder, "setup.lock");
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const quietly = () => undefined;
/** Above the maximum process id. */
const DEAD = "999999999";

test("a second owner waits for the first and reports that once", async () => {
  const order: string[] = [];
  const waits: string[] = [];
  const gate = Promise.withResolvers<void>();
  const first = withLock(
    path,
    async () => {
      order.push("first begins");
      await gate.promise;
      order.push("first ends");
    },
    quietly,
  );
  const second = withLock(
    path,
    () => order.push("second"),
    (owner) => {
      waits.push(owner);
      gate.resolve();
    },
  );
  await Promise.all([first, second]);
  expect(order).toEqual(["first begins", "first ends", "second"]);
  expect(waits).toEqual([String(process.pid)]);
  expect(existsSync(path)).toBe(false);
});

test("releases the lock when the work fails", async () => {
  const work = withLock(path, () => Promise.reject(new Error("no")), quietly);
  await expect(work).rejects.toThrow("no");
  expect(await withLock(path, () => "done", quietly)).toBe("done");
});

test("removes the lock of a dead owner, and only one of many waiting processes gets it", async () => {
  writeFileSync(path, DEAD);
  let inside = 0;
  let max = 0;
  const work = async () => {
    inside += 1;
    max = Math.max(max, inside);
    await new Promise(setImmediate);
    inside -= 1;
  };
  await Promise.all(Array.from({ length: 8 }, () => withLock(path, work, quietly)));
  expect(max).toBe(1);
});

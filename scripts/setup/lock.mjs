/** A lock file that allows one setup at a time. Others wait, and then find everything installed. */

import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const POLL_MS = 100;
/** The age at which the removal of a dead owner's lock counts as abandoned itself. */
const BREAKING_MS = 10_000;

/**
 * Runs `work` while this process owns the lock file. Removes the lock of an owner that died. Calls `onWait` once, with the
 * owner's process id, if another process holds the lock.
 *
 * @template T
 * @param {string} path
 * @param {() => T | Promise<T>} work
 * @param {(owner: string) => void} onWait
 * @returns {Promise<T>}
 */
export async function withLock(path, work, onWait) {
  mkdirSync(dirname(path), { recursive: true });
  for (let round = 0; !take(path); round += 1) {
    const owner = readOwner(path);
    if (owner !== undefined && !isAlive(owner)) breakLock(path, owner);
    else {
      if (round === 0) onWait(owner ?? "unknown");
      await sleep(POLL_MS);
    }
  }
  try {
    return await work();
  } finally {
    rmSync(path, { force: true });
  }
}

function take(path) {
  try {
    writeFileSync(path, String(process.pid), { flag: "wx" });
    return true;
  } catch (error) {
    if (error.code === "EEXIST") return false;
    throw error;
  }
}

/**
 * Removes the lock of an owner that died. Two processes may detect this at once, and the slower one must not remove the
 * new lock of the faster one. So the removal is exclusive and checks the owner again.
 */
function breakLock(path, deadOwner) {
  const breaking = `${path}.breaking`;
  if (!take(breaking)) {
    const since = statSync(breaking, { throwIfNoEntry: false })?.mtimeMs ?? Date.now();
    if (Date.now() - since > BREAKING_MS) rmSync(breaking, { force: true });
    return;
  }
  try {
    if (readOwner(path) === deadOwner) rmSync(path, { force: true });
  } finally {
    rmSync(breaking, { force: true });
  }
}

/** The process id in the lock file. Undefined if there is no file, or if it is still empty. */
function readOwner(path) {
  try {
    return readFileSync(path, "utf8") || undefined;
  } catch (error) {
    if (error.code === "ENOENT") return undefined;
    throw error;
  }
}

function isAlive(owner) {
  try {
    process.kill(Number(owner), 0);
    return true;
  } catch (error) {
    return error.code === "EPERM";
  }
}

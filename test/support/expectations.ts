import { afterAll, expect } from "vitest";
import type { ValkeyCommand } from "#shared/contract/command.ts";
import type { LaneId } from "#shared/contract/ids.ts";
import type { ExecKeys, LaneKeys } from "#shared/contract/keys.ts";
import { FlowFixture } from "#test/support/flow-fixture.ts";
import type { Deployment } from "#test/support/valkey.ts";

/** Call it inside a `describe`. Returns a factory of fixtures on one client, which is closed after all tests. */
export function fixturesOn(deployment: Deployment): (lane?: LaneId) => FlowFixture {
  const valkey = deployment.connect();
  afterAll(() => valkey.close());
  return (lane) => new FlowFixture(valkey, lane, undefined, deployment.edition);
}

/** Expects a refusal with exactly this code and detail, and no change of any key, field or expiry. */
export async function expectRefusal(
  fixture: FlowFixture,
  command: ValkeyCommand,
  code: string,
  ...detail: string[]
): Promise<void> {
  const before = await fixture.snapshot();
  const reply = await fixture.call(command);
  expect(reply).toEqual({ kind: "refused", code, detail });
  expect(await fixture.snapshot()).toEqual(before);
}

/** Expects that an execution is in exactly one of the lane's indexes, with this score if given. */
export async function expectOnlyIn(
  fixture: FlowFixture,
  keys: ExecKeys,
  expected: keyof LaneKeys,
  score?: number,
): Promise<void> {
  const found: Record<string, number> = {};
  for (const [name, key] of Object.entries(fixture.index.lane(fixture.lane))) {
    const at = await fixture.read("zscore", String(key), keys.id);
    if (typeof at === "string") found[name] = Number(at);
  }
  expect(Object.keys(found)).toEqual([expected]);
  if (score !== undefined) expect(found[expected]).toBe(score);
}

/** Expects a time as text, in milliseconds since the epoch, between `from` and `to` inclusive. */
export function expectTimeIn(text: string | undefined, from: number, to: number): void {
  expect(text).toMatch(/^\d{13}$/);
  expect(Number(text)).toBeGreaterThanOrEqual(from);
  expect(Number(text)).toBeLessThanOrEqual(to);
}

/** Returns the server's time in milliseconds since the epoch. */
export async function serverTime(fixture: FlowFixture): Promise<number> {
  const time = await fixture.read("time");
  const [seconds, microseconds] = Array.isArray(time) ? time.map(Number) : [];
  if (seconds === undefined || microseconds === undefined) throw new Error("TIME returned a malformed reply");
  return seconds * 1_000 + Math.floor(microseconds / 1_000);
}

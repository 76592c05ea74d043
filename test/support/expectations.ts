import { afterAll, expect } from "vitest";
import type { ValkeyCommand } from "#shared/contract/command.ts";
import type { LaneId } from "#shared/contract/ids.ts";
import type { ExecKeys, LaneKeys } from "#shared/contract/keys.ts";
import { FlowFixture } from "#test/support/flow-fixture.ts";
import type { Deployment } from "#test/support/valkey.ts";

/** Within a `describe`: makes scenes on one connection, which is closed at its end. */
export function fixturesOn(deployment: Deployment): (lane?: LaneId) => FlowFixture {
  const valkey = deployment.connect();
  afterAll(() => valkey.close());
  return (lane) => new FlowFixture(valkey, lane, undefined, deployment.edition);
}

/** The refusal with just this code and detail, and not one key, field or expiry changed by it. */
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

/** The lane's index that an execution stands in, with its score; every index must agree that it is the only one. */
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

/** A text of milliseconds since the epoch that lies in a span, both ends included. */
export function expectTimeIn(text: string | undefined, from: number, to: number): void {
  expect(text).toMatch(/^\d{13}$/);
  expect(Number(text)).toBeGreaterThanOrEqual(from);
  expect(Number(text)).toBeLessThanOrEqual(to);
}

/** The server's clock, in milliseconds since the epoch. */
export async function serverTime(fixture: FlowFixture): Promise<number> {
  const time = await fixture.read("time");
  const [seconds, microseconds] = Array.isArray(time) ? time.map(Number) : [];
  if (seconds === undefined || microseconds === undefined) throw new Error("TIME replied no time");
  return seconds * 1_000 + Math.floor(microseconds / 1_000);
}

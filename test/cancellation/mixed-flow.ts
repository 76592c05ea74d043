/** A flow whose members are in every state that a member can be in. */

import { expect } from "vitest";
import type { ExecKeys } from "#shared/contract/keys.ts";
import type { Lease } from "#shared/contract/ownership.ts";
import type { FlowFixture } from "#test/support/flow-fixture.ts";

const OPEN_STATES = ["eligible", "delayed", "retrying", "active", "blocked", "child"] as const;
export type OpenState = (typeof OPEN_STATES)[number];

export interface MixedFlow {
  /** Members that have not ended. `child` waits for the active one. */
  readonly open: Readonly<Record<OpenState, ExecKeys>>;
  readonly completed: ExecKeys;
  readonly failed: ExecKeys;
  /** The lease of the active member. */
  readonly lease: Lease;
}

const RETRY = '{"max_retries":3,"backoff":{"type":"fixed","delay_ms":60000}}';

export async function mixedFlow(fixture: FlowFixture): Promise<MixedFlow> {
  const [eligible, retrying, active, blocked, child, completed, failed] = await Promise.all([
    fixture.member(),
    fixture.member(),
    fixture.member(),
    fixture.member(),
    fixture.member(),
    fixture.member(),
    fixture.member(),
  ]);
  const delayed = await fixture.member({ delayUntil: Date.now() + 3_600_000 });
  await fixture.edge(eligible, blocked);
  await fixture.edge(active, child);
  const attempt = await fixture.claim(retrying);
  expect((await fixture.fail(retrying, attempt, RETRY))[0]).toBe("retry_scheduled");
  await fixture.finish(completed, "success");
  await fixture.finish(failed, "failed");
  const lease = await fixture.claim(active);
  return { open: { eligible, delayed, retrying, active, blocked, child }, completed, failed, lease };
}

/** Expects that exactly the open members are cancelled, and that no index but `terminal` has them. */
export async function expectCancelled(fixture: FlowFixture, flow: MixedFlow, reason: string): Promise<void> {
  for (const [state, keys] of Object.entries(flow.open)) {
    expect(await fixture.hash(keys.core), state).toMatchObject({
      lifecycle_phase: "terminal",
      terminal_outcome: "cancelled",
      cancellation_reason: reason,
    });
    expect(await indexesWith(fixture, keys), state).toEqual(["terminal"]);
  }
  expect(await fixture.read("hget", flow.completed.core, "terminal_outcome")).toBe("success");
  expect(await fixture.read("hget", flow.failed.core, "terminal_outcome")).toBe("failed");
  await expectNothingPending(fixture);
}

/** Expects that no member of the flow is left to be cancelled. */
export async function expectNothingPending(fixture: FlowFixture): Promise<void> {
  const { flow, index } = fixture;
  expect(await fixture.read("smembers", flow.pendingCancels)).toEqual([]);
  expect(await fixture.read("zscore", index.cancelBacklog, flow.id)).toBeNull();
}

/** The names of the indexes that list an execution. */
async function indexesWith(fixture: FlowFixture, { id }: ExecKeys): Promise<string[]> {
  const lane = fixture.index.lane(fixture.lane);
  const zsets = {
    ...lane,
    leaseExpiry: fixture.index.leaseExpiry,
    attemptTimeout: fixture.index.attemptTimeout,
    executionDeadline: fixture.index.executionDeadline,
  };
  const found: string[] = [];
  for (const [name, key] of Object.entries(zsets)) {
    if ((await fixture.read("zscore", key, id)) !== null) found.push(name);
  }
  if ((await fixture.read("sismember", fixture.index.workerLeases("worker-1"), id)) === 1)
    found.push("worker");
  return found;
}

import { describe, expect, test } from "vitest";
import { replayExecution } from "#shared/contract/graph.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { promoteDelayed } from "#shared/contract/ownership.ts";
import { expireExecution, markLeaseExpiredIfDue, revokeLease } from "#shared/contract/upkeep.ts";
import { fixturesOn } from "#test/support/expectations.ts";
import { attempt, type FlowFixture, WORKER } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

const RETRY = '{"max_retries":1,"backoff":{"type":"fixed","delay_ms":0}}';

/** The events of a lease history, oldest first; a release with its reason. */
async function eventsOf(fixture: FlowFixture, keys: ExecKeys): Promise<string[]> {
  const entries = await fixture.read("xrange", keys.leaseHistory, "-", "+");
  return (Array.isArray(entries) ? entries : []).map(([, flat]: [string, string[]]) => {
    const value = (name: string) => (flat.includes(name) ? [flat[flat.indexOf(name) + 1]] : []);
    return [...value("event"), ...value("reason")].join(" ");
  });
}

async function replay(fixture: FlowFixture, keys: ExecKeys): Promise<void> {
  await fixture.done(replayExecution(keys, fixture.index, fixture.lane, [], 0));
}

describe.each(DEPLOYMENTS_OF_BOTH)("the lease history ($name, $edition KEYS)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  test("does not exist for an execution without trouble, a retry, a cancellation and a timeout included", async () => {
    const fixture = newFixture();
    const [retried, cancelled, expired] = [
      await fixture.member(),
      await fixture.member(),
      await fixture.member(),
    ];
    await fixture.fail(retried, await fixture.claim(retried), RETRY);
    await fixture.done(promoteDelayed(fixture.target(retried), Date.now() + 60_000));
    await fixture.finish(retried, "success");
    await fixture.claim(cancelled);
    await fixture.cancel(cancelled);
    await fixture.claim(expired);
    await fixture.read("zadd", fixture.index.attemptTimeout, 1, expired.id);
    await fixture.done(expireExecution(fixture.target(expired), attempt(0), "attempt_timeout", 1));
    for (const keys of [retried, cancelled, expired]) {
      expect(await fixture.read("exists", keys.leaseHistory)).toBe(0);
    }
  });

  test.each(["replay_initiated", "revoked", "expired"] as const)(
    "begins with %s, and has every event from then on",
    async (event) => {
      const fixture = newFixture();
      const keys = await fixture.member();
      const target = fixture.target(keys);
      if (event === "replay_initiated") {
        await fixture.finish(keys, "success");
      } else {
        await fixture.claim(keys);
        if (event === "revoked") await fixture.done(revokeLease(target, WORKER.instanceId, "", "drain"));
        else {
          await fixture.read("hset", keys.core, "lease_expires_at", "1000");
          await fixture.done(markLeaseExpiredIfDue(target));
        }
        await fixture.cancel(keys, "operator_override");
      }
      await replay(fixture, keys);
      await fixture.finish(keys, "failed");
      const lost = { replay_initiated: [], revoked: ["revoked drain"], expired: ["expired"] }[event];
      expect(await eventsOf(fixture, keys)).toEqual([
        ...lost.flatMap((first) => [first, "released cancelled"]),
        "replay_initiated",
        "acquired",
        "released failed_terminal",
      ]);
    },
  );
});

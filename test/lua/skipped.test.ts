import { describe, expect, test } from "vitest";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { ANY_OF, groupedChild } from "#test/lua/grouped-child.ts";
import { subscribeToCompletions } from "#test/support/completions.ts";
import { fixturesOn } from "#test/support/expectations.ts";
import { DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

describe.each(DEPLOYMENTS_OF_BOTH)("a skipped child ($name, $edition KEYS)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  test("is published by the 14-KEYS edition only", async () => {
    const fixture = newFixture();
    using feed = await subscribeToCompletions(deployment, fixture.flow.id);
    const required = await groupedChild(fixture, undefined, 1);
    await required.resolve(0, "failed");
    const expected = [];
    const event = (keys: ExecKeys, outcome: string) =>
      `{"execution_id":"${keys.id}","flow_id":"${fixture.flow.id}","outcome":"${outcome}"}`;
    if (deployment.edition === 14) {
      const grouped = await groupedChild(fixture, ANY_OF, 1);
      await grouped.resolve(0, "failed");
      await grouped.resolve(0, "failed");
      expected.push(event(required.child, "skipped"), event(grouped.child, "skipped"));
    }
    // This event arrives in order: events missing before it were never published.
    const last = await fixture.member();
    await fixture.cancel(last);
    expected.push(event(last, "cancelled"));
    for (const one of expected) expect(await feed.next()).toBe(one);
  });
});

import { describe, expect, test } from "vitest";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { ANY_OF, groupedChild } from "#test/lua/grouped-child.ts";
import { completionsOf } from "#test/support/completions.ts";
import { scenesOn } from "#test/support/expectations.ts";
import { DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

describe.each(DEPLOYMENTS_OF_BOTH)("a skipped child on $name, $edition KEYS", (deployment) => {
  const newScene = scenesOn(deployment);

  test("is published by the 14-KEYS edition, and by that one only", async () => {
    const scene = newScene();
    using feed = await completionsOf(deployment, scene.flow.id);
    const required = await groupedChild(scene, undefined, 1);
    await required.resolve(0, "failed");
    const expected = [];
    const event = (keys: ExecKeys, outcome: string) =>
      `{"execution_id":"${keys.id}","flow_id":"${scene.flow.id}","outcome":"${outcome}"}`;
    if (deployment.edition === 14) {
      const grouped = await groupedChild(scene, ANY_OF, 1);
      await grouped.resolve(0, "failed");
      await grouped.resolve(0, "failed");
      expected.push(event(required.child, "skipped"), event(grouped.child, "skipped"));
    }
    // What was not published before this is not published at all.
    const last = await scene.member();
    await scene.cancel(last);
    expected.push(event(last, "cancelled"));
    for (const one of expected) expect(await feed.next()).toBe(one);
  });
});

import { describe, expect, test } from "vitest";
import { issueClaimGrant } from "#shared/contract/ownership.ts";
import { createExecution } from "#shared/contract/submission.ts";
import {
  expectOnlyIn,
  expectRefusal,
  expectTimeIn,
  fixturesOn,
  serverTime,
} from "#test/support/expectations.ts";
import { field, WORKER } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

function requiring(required: unknown): string {
  return JSON.stringify({ routing_requirements: { required_capabilities: required } });
}

function tokens(count: number, length = 1): string[] {
  return Array.from({ length: count }, (_, index) => String.fromCharCode(0x100 + index).padEnd(length, "x"));
}

describe.each(DEPLOYMENTS_OF_BOTH)("capabilities ($name, $edition KEYS)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  test.each([
    ["", ""],
    ["{}", ""],
    ['{"routing_requirements":{}}', ""],
    [requiring([]), ""],
    [requiring(["gpu"]), "gpu"],
    [requiring(["zeta", "alpha", "cuda=12"]), "alpha,cuda=12,zeta"],
  ])("the policy %s is stored as %j", async (policyJson, stored) => {
    const fixture = newFixture();
    const core = await fixture.hash((await fixture.execution({ policyJson })).core);
    expect(field(core, "required_capabilities")).toBe(stored);
  });

  test.each([
    ["{", "invalid_policy_json", "malformed"],
    ["5", "invalid_policy_json", "malformed"],
    ["null", "invalid_policy_json", "malformed"],
    ['{"routing_requirements":null}', "invalid_policy_json", "routing_requirements:not_object"],
    ['{"routing_requirements":"gpu"}', "invalid_policy_json", "routing_requirements:not_object"],
    [requiring("gpu"), "invalid_capabilities", "required:not_array"],
    [requiring(null), "invalid_capabilities", "required:not_array"],
    [requiring({ a: "gpu" }), "invalid_capabilities", "required:not_array"],
    [requiring(["gpu", 1]), "invalid_capabilities", "required:non_string_token"],
    [requiring(["gpu", null]), "invalid_capabilities", "required:non_string_token"],
    [requiring(["gpu", ""]), "invalid_capabilities", "required:empty_token"],
    [requiring(["a,b"]), "invalid_capabilities", "required:comma_in_token"],
    [requiring(["a b"]), "invalid_capabilities", "required:control_or_whitespace"],
    [requiring(["a\u0000"]), "invalid_capabilities", "required:control_or_whitespace"],
    [requiring(["a\u007f"]), "invalid_capabilities", "required:control_or_whitespace"],
    [requiring(tokens(257)), "invalid_capabilities", "required:too_many_tokens"],
    [requiring(["x".repeat(4_097)]), "invalid_capabilities", "required:too_many_bytes"],
  ])("the policy %s is refused", async (policyJson, code, detail) => {
    const fixture = newFixture();
    await expectRefusal(fixture, createExecution(fixture.creation({ policyJson })), code, detail);
  });

  test("the limits themselves are accepted", async () => {
    const fixture = newFixture();
    for (const required of [tokens(256), ["x".repeat(4_096)]]) {
      const keys = await fixture.execution({ policyJson: requiring(required) });
      await fixture.done(issueClaimGrant(fixture.target(keys), { ...WORKER, capabilities: required }, 1_000));
    }
  });

  test("a worker that lacks a capability gets capability_mismatch, and the execution stays eligible", async () => {
    const fixture = newFixture();
    const keys = await fixture.execution({ policyJson: requiring(["gpu", "ssd", "arm"]) });
    const from = await serverTime(fixture);
    const { last_capability_mismatch_at: absent, ...before } = await fixture.hash(keys.core);
    expect(absent).toBeUndefined();
    for (const [capabilities, missing] of [
      [[], "arm,gpu,ssd"],
      [["gpu", "", "other"], "arm,ssd"],
      [["gp", "gpu2", "arm", "ssd"], "gpu"],
    ] as const) {
      const grant = issueClaimGrant(fixture.target(keys), { ...WORKER, capabilities }, 60_000);
      expect(await fixture.call(grant)).toEqual({
        kind: "refused",
        code: "capability_mismatch",
        detail: [missing],
      });
    }
    const { last_capability_mismatch_at: at, ...after } = await fixture.hash(keys.core);
    expectTimeIn(at, from, await serverTime(fixture));
    expect(after).toEqual(before);
    expect(await fixture.read("exists", keys.claimGrant)).toBe(0);
    await expectOnlyIn(fixture, keys, "eligible");
    const capabilities = ["ssd", "arm", "gpu", "more"];
    await fixture.done(issueClaimGrant(fixture.target(keys), { ...WORKER, capabilities }, 60_000));
  });

  test("a worker's capabilities have limits, which are checked after the execution", async () => {
    const fixture = newFixture();
    const keys = await fixture.execution();
    const grantFor = (capabilities: string[]) =>
      issueClaimGrant(fixture.target(keys), { ...WORKER, capabilities }, 60_000);
    const refusals = [
      [tokens(257), "worker:too_many_tokens"],
      [["x".repeat(4_097)], "worker:too_many_bytes"],
    ] as const;
    for (const [capabilities, detail] of refusals) {
      await expectRefusal(fixture, grantFor([...capabilities]), "invalid_capabilities", detail);
    }
    const { eligible } = fixture.index.lane(fixture.lane);
    await fixture.read("zrem", eligible, keys.id);
    await expectRefusal(fixture, grantFor(tokens(257)), "execution_not_in_eligible_set");
  });
});

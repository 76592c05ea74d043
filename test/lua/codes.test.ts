import { expect, test } from "vitest";
import { functionNames, LIBRARY_SOURCE } from "#lua/library.ts";
import { REFUSAL_CODES } from "#shared/contract/reply.ts";

test("the codes that the Lua sources reply are those that the decoder knows", () => {
  const refused = [...LIBRARY_SOURCE.matchAll(/\brefuse\('([a-z_]+)/g)].map((match) => match[1] ?? "");
  expect([...new Set(refused)].sort()).toEqual([...REFUSAL_CODES].sort());
});

test("every refusal goes through refuse, with its code as a literal", () => {
  const calls = LIBRARY_SOURCE.match(/\brefuse\(/g)?.length ?? 0;
  const literals = LIBRARY_SOURCE.match(/\brefuse\('[a-z_]+/g)?.length ?? 0;
  // One more: the definition itself.
  expect(calls).toBe(literals + 1);
  expect(LIBRARY_SOURCE.match(/\{\s*0\s*,/g)).toHaveLength(1);
});

test("the library registers every function of the contract, and the one of ours", () => {
  expect(functionNames(LIBRARY_SOURCE).sort()).toEqual([
    "ff_add_execution_to_flow",
    "ff_apply_dependency_to_child",
    "ff_cancel_execution",
    "ff_cancel_flow",
    "ff_claim_execution",
    "ff_complete_execution",
    "ff_create_execution",
    "ff_create_flow",
    "ff_evaluate_flow_eligibility",
    "ff_fail_execution",
    "ff_issue_claim_grant",
    "ff_promote_blocked_to_eligible",
    "ff_promote_delayed",
    "ff_replay_execution",
    "ff_resolve_dependency",
    "ff_stage_dependency_edge",
    "ff_version",
  ]);
});

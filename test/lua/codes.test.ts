import { expect, test } from "vitest";
import { functionNames, librarySource } from "#lua/library.ts";
import { REFUSAL_CODES } from "#shared/contract/reply.ts";

const EDITIONS = [11, 14] as const;

/** Returns the refusal codes in an edition's sources, with repetitions. */
function codesOf(edition: 11 | 14): string[] {
  return [...librarySource(edition).matchAll(/\brefuse\('([a-z_]+)/g)].map((match) => match[1] ?? "");
}

test("the refusal codes in the Lua sources equal REFUSAL_CODES", () => {
  expect([...new Set(EDITIONS.flatMap(codesOf))].sort()).toEqual([...REFUSAL_CODES].sort());
  const only14 = [...new Set(codesOf(14))].filter((code) => !codesOf(11).includes(code));
  expect(only14.sort()).toEqual(["invalid_args", "invariant_violation"]);
});

test.each(EDITIONS)("every refusal calls refuse with a literal code (%i KEYS)", (edition) => {
  const source = librarySource(edition);
  const calls = source.match(/\brefuse\(/g)?.length ?? 0;
  // Plus one: the definition of refuse.
  expect(calls).toBe(codesOf(edition).length + 1);
  expect(source.match(/\{\s*0\s*,/g)).toHaveLength(1);
});

test("each edition has the functions of the contract, and Sluice's own", () => {
  const shared = [
    "ff_ack_cancel_member",
    "ff_add_execution_to_flow",
    "ff_apply_dependency_to_child",
    "ff_cancel_execution",
    "ff_cancel_flow",
    "ff_change_priority",
    "ff_claim_execution",
    "ff_complete_execution",
    "ff_create_execution",
    "ff_create_flow",
    "ff_evaluate_flow_eligibility",
    "ff_expire_execution",
    "ff_fail_execution",
    "ff_issue_claim_grant",
    "ff_issue_grant_and_claim",
    "ff_issue_reclaim_grant",
    "ff_mark_lease_expired_if_due",
    "ff_promote_blocked_to_eligible",
    "ff_promote_delayed",
    "ff_reclaim_execution",
    "ff_renew_lease",
    "ff_replay_execution",
    "ff_resolve_dependency",
    "ff_revoke_lease",
    "ff_stage_dependency_edge",
    "ff_update_progress",
    "ff_version",
    "sluice_begin_purge",
    "sluice_confirm_flow_end",
    "sluice_count_members",
    "sluice_finish_purge",
    "sluice_purge_execution",
    "sluice_revision",
  ];
  expect(functionNames(librarySource(11)).sort()).toEqual(shared);
  const groups = [
    "ff_drain_sibling_cancel_group",
    "ff_reconcile_sibling_cancel_group",
    "ff_set_edge_group_policy",
  ];
  expect(functionNames(librarySource(14)).sort()).toEqual([...shared, ...groups].sort());
});

/**
 * The placeholder `ff:noop:{fp:N}` fills a KEYS position that a call does not use. FlowFabric's callers send it in every
 * position that is optional, so no function may read or write it.
 */

import { describe, expect, test } from "vitest";
import { functionNames, librarySource } from "#lua/library.ts";
import { fcall, type ValkeyCommand } from "#shared/contract/command.ts";
import { cancelFlow } from "#shared/contract/graph.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { idempotencyKey, noopKey } from "#shared/contract/keys.ts";
import {
  cancelExecution,
  claimExecution,
  completeExecution,
  failExecution,
  issueClaimGrant,
  issueGrantAndClaim,
} from "#shared/contract/ownership.ts";
import { createExecution, createFlow, stageDependencyEdge } from "#shared/contract/submission.ts";
import {
  expireExecution,
  issueReclaimGrant,
  reclaimExecution,
  revokeLease,
} from "#shared/contract/upkeep.ts";
import { fixturesOn } from "#test/support/expectations.ts";
import { attempt, type FlowFixture, WORKER } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

/** A call of a function, and the KEYS positions (from 1) that may hold the placeholder. */
interface Case {
  readonly name: string;
  readonly positions: readonly number[];
  /** Positions that only the 14-KEYS edition has. */
  readonly positions14?: readonly number[];
  readonly prepare: (fixture: FlowFixture) => Promise<ValkeyCommand>;
}

/** Functions without a KEYS position that a caller may leave unused. */
const WITHOUT_OPTIONAL_KEYS = [
  "ff_ack_cancel_member",
  "ff_change_priority",
  "ff_drain_sibling_cancel_group",
  "ff_issue_reclaim_grant",
  "ff_mark_lease_expired_if_due",
  "ff_reconcile_sibling_cancel_group",
  "ff_renew_lease",
  "ff_update_progress",
  "ff_add_execution_to_flow",
  "ff_evaluate_flow_eligibility",
  "ff_issue_claim_grant",
  "ff_promote_blocked_to_eligible",
  "ff_promote_delayed",
  "ff_replay_execution",
  "sluice_begin_purge",
  "sluice_confirm_flow_end",
  "sluice_count_members",
  "sluice_finish_purge",
  "sluice_purge_execution",
  "ff_set_edge_group_policy",
  "ff_version",
];

const CLAIM_TERMS = { leaseId: "lease", attemptId: "attempt", leaseTtlMs: 60_000, renewBeforeMs: 1_000 };
const ATTEMPT_TIMEOUT_ARGUMENT = 10;

async function activeMember(fixture: FlowFixture) {
  const keys = await fixture.member({ deadlineAt: 1_999_999_999_999 });
  return { keys, lease: await fixture.claim(keys) };
}

async function cancellation(fixture: FlowFixture, keys: ExecKeys): Promise<ValkeyCommand> {
  return cancelExecution(fixture.target(keys), WORKER, attempt(0), { reason: "", source: "operator" });
}

/** The reclaim of an execution whose lease was revoked. */
async function reclaim(fixture: FlowFixture): Promise<ValkeyCommand> {
  const { keys } = await activeMember(fixture);
  const target = fixture.target(keys);
  await fixture.done(revokeLease(target, WORKER.instanceId, "", "drain"));
  await fixture.done(issueReclaimGrant(target, WORKER, 60_000));
  return reclaimExecution(target, WORKER, {
    interrupted: attempt(0),
    leaseId: "lease-2",
    leaseTtlMs: 60_000,
    attemptId: "attempt-2",
  });
}

const CASES: readonly Case[] = [
  {
    name: "ff_create_execution",
    positions: [2, 3, 4, 6, 7],
    prepare: async (fixture) => {
      const key = idempotencyKey(fixture.flow.partition, "tests", "order-1");
      return createExecution(fixture.creation({ idempotency: { key, ttlMs: 60_000 } }));
    },
  },
  {
    name: "ff_create_execution",
    positions: [7],
    prepare: async (fixture) => createExecution(fixture.creation({ deadlineAt: 1_999_999_999_999 })),
  },
  {
    name: "ff_claim_execution",
    positions: [6, 7, 8, 13, 14],
    prepare: async (fixture) => {
      const keys = await fixture.execution();
      await fixture.done(issueClaimGrant(fixture.target(keys), WORKER, 60_000));
      const claim = claimExecution(fixture.target(keys), WORKER, CLAIM_TERMS);
      const args = [...claim.args];
      args.splice(2 + 14 + ATTEMPT_TIMEOUT_ARGUMENT - 1, 3, '{"a":1}', 1_000, 1_999_999_999_999);
      return { ...claim, args };
    },
  },
  {
    name: "ff_issue_grant_and_claim",
    positions: [6, 7, 8, 13, 14],
    prepare: async (fixture) => {
      const claim = issueGrantAndClaim(fixture.target(await fixture.execution()), WORKER, CLAIM_TERMS);
      const args = [...claim.args];
      args.splice(2 + 14 + ATTEMPT_TIMEOUT_ARGUMENT - 1, 3, '{"a":1}', 1_000, 1_999_999_999_999);
      return { ...claim, args };
    },
  },
  {
    name: "ff_complete_execution",
    positions: [9, 11, 12],
    prepare: async (fixture) => {
      const { keys, lease } = await activeMember(fixture);
      return completeExecution(fixture.target(keys), WORKER, lease, "result");
    },
  },
  {
    name: "ff_fail_execution",
    positions: [10, 11, 12],
    prepare: async (fixture) => {
      const { keys, lease } = await activeMember(fixture);
      const failure = { reason: "it broke", category: "test", retryPolicyJson: "" };
      return failExecution(fixture.target(keys), WORKER, lease, failure);
    },
  },
  {
    name: "ff_cancel_execution",
    positions: [2, 3, 4, 5, 7, 8, 9, 10, 11, 13, 14, 16, 17, 18, 19, 20, 21],
    prepare: async (fixture) => cancellation(fixture, (await activeMember(fixture)).keys),
  },
  {
    name: "ff_cancel_execution",
    positions: [2, 3, 4, 5, 7, 8, 9, 10, 11, 13, 14, 16, 17, 18, 19, 20, 21],
    prepare: async (fixture) => cancellation(fixture, await fixture.execution()),
  },
  {
    name: "ff_resolve_dependency",
    positions: [8, 9, 11],
    positions14: [12, 13, 14],
    prepare: async (fixture) => {
      const edge = await fixture.edge(await fixture.member(), await fixture.member(), "data");
      return fixture.resolution(edge, "success");
    },
  },
  {
    name: "ff_resolve_dependency",
    positions: [8, 9],
    prepare: async (fixture) => {
      const { keys } = await activeMember(fixture);
      return fixture.resolution(await fixture.edge(await fixture.member(), keys), "failed");
    },
  },
  {
    name: "ff_resolve_dependency",
    positions: [],
    positions14: [13, 14],
    prepare: async (fixture) => {
      const child = await fixture.member();
      if (fixture.edition === 14) {
        await fixture.group(child, { variant: "any_of", onSatisfied: "cancel_remaining" });
      }
      await fixture.edge(await fixture.member(), child);
      return fixture.resolution(await fixture.edge(await fixture.member(), child), "success");
    },
  },
  {
    name: "ff_apply_dependency_to_child",
    positions: [],
    positions14: [8],
    prepare: async (fixture) => {
      const [upstream, child] = [await fixture.member(), await fixture.member()];
      const edge = fixture.newEdge(upstream, child);
      return fixture.apply(edge, child, await fixture.stage(edge));
    },
  },
  {
    name: "ff_revoke_lease",
    positions: [5],
    prepare: async (fixture) =>
      revokeLease(fixture.target((await activeMember(fixture)).keys), WORKER.instanceId, "", "drain"),
  },
  {
    name: "ff_reclaim_execution",
    positions: [4, 5, 6, 13, 14],
    prepare: reclaim,
  },
  {
    name: "ff_expire_execution",
    positions: [2, 3, 7, 12, 13, 14],
    prepare: async (fixture) => {
      const { keys } = await activeMember(fixture);
      await fixture.read("zadd", fixture.index.attemptTimeout, 1, keys.id);
      return expireExecution(fixture.target(keys), attempt(0), "attempt_timeout", 1);
    },
  },
  {
    name: "ff_stage_dependency_edge",
    positions: [6],
    prepare: async (fixture) => {
      const edge = fixture.newEdge(await fixture.member(), await fixture.member());
      const revision = Number(await fixture.read("hget", fixture.flow.core, "graph_revision"));
      return stageDependencyEdge(fixture.flow, edge, revision, 1);
    },
  },
  {
    name: "ff_create_flow",
    positions: [2],
    prepare: async (fixture) => createFlow(fixture.flow, fixture.index, "dag", "tests", 0),
  },
  {
    name: "ff_cancel_flow",
    positions: [3, 4, 5],
    prepare: async (fixture) => {
      await fixture.member();
      return cancelFlow(fixture.flow, fixture.index, "no", "cancel_all", 0);
    },
  },
];

/** The call with the placeholder in one of its KEYS positions. */
function withPlaceholder({ partition, args: [name, count, ...rest] }: ValkeyCommand, position: number) {
  const keys = rest.slice(0, Number(count)).map(String);
  expect(keys.length).toBeGreaterThanOrEqual(position);
  keys[position - 1] = noopKey(partition);
  return fcall(partition, String(name), keys, rest.slice(Number(count)));
}

/** A reply whose ids and times are replaced, so that replies of two fixtures are comparable. */
function masked(reply: unknown): string {
  return JSON.stringify(reply).replaceAll(/\{fp:\d+\}:|[0-9a-f-]{36}|\b\d{13}\b/g, "…");
}

test("the cases and the list of functions without optional keys cover the library", () => {
  const covered = [...new Set(CASES.map(({ name }) => name)), ...WITHOUT_OPTIONAL_KEYS].sort();
  const functions = functionNames(librarySource(14)).filter((name) => name !== "sluice_revision");
  expect(covered).toEqual(functions.sort());
});

const SERVERS = DEPLOYMENTS_OF_BOTH.filter(({ name }) => name === "standalone");
// Release 0.1 wrote an id there. A function that reads or writes such a placeholder fails, or takes the id for data.
const CONTENTS = [undefined, "an id of release 0.1"];

describe.each(SERVERS)("placeholder keys ($edition KEYS)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  describe.each(CONTENTS)("holding %s", (content) => {
    test.each(CASES)("$name neither reads nor writes one", async ({ positions, positions14, prepare }) => {
      const reference = newFixture();
      const expected = masked(await reference.call(await prepare(reference)));
      expect(expected).toContain('"kind":"done"');
      for (const position of [...positions, ...(deployment.edition === 14 ? (positions14 ?? []) : [])]) {
        const fixture = newFixture();
        const command = await prepare(fixture);
        const key = noopKey(fixture.flow.partition);
        if (content !== undefined) await fixture.read("set", key, content);
        const reply = masked(await fixture.call(withPlaceholder(command, position)));
        expect({ position, reply }).toEqual({ position, reply: expected });
        expect({ position, content: await fixture.read("get", key) }).toEqual({
          position,
          content: content ?? null,
        });
        expect(Object.keys(await fixture.snapshot()).filter((name) => name.includes("noop"))).toEqual(
          content === undefined ? [] : [key],
        );
      }
    });
  });

  test("creations with the placeholder as idempotency key are independent of each other", async () => {
    const fixture = newFixture();
    const idempotency = { key: noopKey(fixture.flow.partition), ttlMs: 60_000 };
    for (let count = 0; count < 2; count += 1) {
      const creation = fixture.creation({ idempotency });
      expect(await fixture.done(createExecution(creation))).toEqual([creation.keys.id, "waiting"]);
    }
  });
});

import { describe, expect, it } from "vitest";
import {
  parseAttemptIndex,
  parseEdgeId,
  parseExecutionId,
  parseFlowId,
  parseLaneId,
  unwrap,
} from "#shared/contract/ids.ts";
import {
  idempotencyKey,
  LANES_KEY,
  LANES_PARTITION,
  noopKey,
  PARTITION_CONFIG_KEY,
} from "#shared/contract/keys.ts";
import { crc16, PartitionRouter, slotOf } from "#shared/contract/partitions.ts";

const UUID = "550e8400-e29b-41d4-a716-446655440000";
const E = `{fp:24}:${UUID}`;
const T = "{fp:24}";
const execution = unwrap(parseExecutionId(E));
const flow = unwrap(parseFlowId(UUID));
const edge = unwrap(parseEdgeId(UUID));
const attempt = unwrap(parseAttemptIndex("2"));
const router = new PartitionRouter();

/** The rows of the contract's section 3. */
describe("keys", () => {
  it("match the contract for an execution", () => {
    const keys = router.execKeys(execution);
    expect([
      keys.core,
      keys.payload,
      keys.result,
      keys.policy,
      keys.tags,
      keys.depsMeta,
      keys.depsUnresolved,
      keys.depsAllEdges,
      keys.dep(edge),
      keys.leaseCurrent,
      keys.leaseHistory,
      keys.claimGrant,
      keys.attempts,
      keys.cascade,
    ]).toEqual(
      [
        "core",
        "payload",
        "result",
        "policy",
        "tags",
        "deps:meta",
        "deps:unresolved",
        "deps:all_edges",
        `dep:${UUID}`,
        "lease:current",
        "lease:history",
        "claim_grant",
        "attempts",
        "cascade",
      ].map((suffix) => `ff:exec:${T}:${E}:${suffix}`),
    );
    expect(keys.attempt(attempt)).toBe(`ff:attempt:${T}:${E}:2`);
    expect(keys.attemptUsage(attempt)).toBe(`ff:attempt:${T}:${E}:2:usage`);
    expect(keys.attemptPolicy(attempt)).toBe(`ff:attempt:${T}:${E}:2:policy`);
    expect(keys.streamMeta(attempt)).toBe(`ff:stream:${T}:${E}:2:meta`);
  });

  it("match the contract for a partition's indexes", () => {
    const keys = router.indexKeys(router.flowPartition(flow));
    expect(Object.values(keys.lane(unwrap(parseLaneId("gpu"))))).toEqual(
      [
        "eligible",
        "delayed",
        "active",
        "terminal",
        "suspended",
        "blocked:dependencies",
        "blocked:budget",
        "blocked:quota",
        "blocked:route",
        "blocked:operator",
      ].map((index) => `ff:idx:${T}:lane:gpu:${index}`),
    );
    expect([
      keys.leaseExpiry,
      keys.attemptTimeout,
      keys.executionDeadline,
      keys.suspensionTimeout,
      keys.workerLeases("w1"),
      keys.allExecutions,
      keys.flowIndex,
      keys.pendingCancelGroups,
    ]).toEqual(
      [
        "lease_expiry",
        "attempt_timeout",
        "execution_deadline",
        "suspension_timeout",
        "worker:w1:leases",
        "all_executions",
        "flow_index",
        "pending_cancel_groups",
      ].map((index) => `ff:idx:${T}:${index}`),
    );
  });

  it("match the contract for a flow", () => {
    const keys = router.flowKeys(flow);
    expect([
      keys.core,
      keys.members,
      keys.edge(edge),
      keys.outgoing(execution),
      keys.incoming(execution),
      keys.grant("m1"),
      keys.edgeGroup(execution),
    ]).toEqual(
      ["core", "members", `edge:${UUID}`, `out:${E}`, `in:${E}`, "grant:m1", `edgegroup:${E}`].map(
        (suffix) => `ff:flow:${T}:${UUID}:${suffix}`,
      ),
    );
  });

  it("match the contract for keys outside partitions, noop and idempotency keys", () => {
    const partition = router.flowPartition(flow);
    expect(noopKey(partition)).toBe(`ff:noop:${T}`);
    expect(idempotencyKey(partition, "ns", "k")).toBe(`ff:idem:${T}:ns:k`);
    expect(PARTITION_CONFIG_KEY).toBe("ff:config:partitions");
    expect(LANES_KEY).toBe("ff:idx:lanes");
    expect(slotOf(LANES_PARTITION)).toBe(crc16(Buffer.from(LANES_KEY)) % 16_384);
  });
});

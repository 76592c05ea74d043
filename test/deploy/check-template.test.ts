import { expect, it } from "vitest";
import { templateErrors } from "#scripts/check-template.ts";

/** A replication group for which AWS accepts durable writes. */
const DURABLE = {
  Engine: "valkey",
  EngineVersion: "9.0",
  Durability: "sync",
  CacheNodeType: "cache.r7g.large",
  ReplicasPerNodeGroup: 1,
  MultiAZEnabled: true,
  AutomaticFailoverEnabled: true,
  TransitEncryptionEnabled: true,
  TransitEncryptionMode: "required",
  AtRestEncryptionEnabled: true,
  ClusterMode: "enabled",
};

function errorsOf(changes: Readonly<Record<string, unknown>>): string[] {
  const Properties = { ...DURABLE, ...changes };
  return templateErrors(
    { Resources: { Group: { Type: "AWS::ElastiCache::ReplicationGroup", Properties } } },
    "x",
  );
}

it("accepts durable writes that AWS accepts", () => {
  for (const changes of [
    {},
    { Durability: "async" },
    { EngineVersion: "10.1" },
    { CacheNodeType: "cache.m7g.large" },
  ]) {
    expect(errorsOf(changes)).toEqual([]);
  }
});

it.each([
  ["an engine before 9", { EngineVersion: "8.1" }, "valkeyVersion"],
  ["a t4g node", { CacheNodeType: "cache.t4g.medium" }, "cache.t4g.medium"],
  ["no replica", { ReplicasPerNodeGroup: 0 }, "valkeyReplicas"],
  ["one zone", { MultiAZEnabled: false }, "MultiAZEnabled"],
  ["no failover", { AutomaticFailoverEnabled: false }, "AutomaticFailoverEnabled"],
  ["no TLS", { TransitEncryptionEnabled: false }, "TransitEncryptionEnabled"],
  ["optional TLS", { TransitEncryptionMode: "preferred" }, "TransitEncryptionMode"],
  ["no encryption at rest", { AtRestEncryptionEnabled: false }, "AtRestEncryptionEnabled"],
  ["cluster mode off", { ClusterMode: "disabled" }, "ClusterMode"],
])("refuses durable writes with %s, and accepts the same without durability", (_, changes, named) => {
  expect(errorsOf(changes)).toEqual([expect.stringContaining(named)]);
  for (const Durability of ["disabled", { Ref: "AWS::NoValue" }]) {
    expect(errorsOf({ ...changes, Durability })).toEqual([]);
  }
});

it("refuses an unknown durability", () => {
  expect(errorsOf({ Durability: "always" })).toEqual([
    'valkeyDurability is "always": expected disabled, async or sync',
  ]);
});

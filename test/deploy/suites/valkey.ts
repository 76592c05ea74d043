/** The replication group and its users. */

import { expect, it } from "vitest";
import { idOf, KEY, OWN, type Packaged, VALKEY_FUNCTIONS } from "#test/deploy/names.ts";
import { at } from "#test/deploy/template.ts";

export function valkey(packaged: Packaged): void {
  it.each(OWN)("%s: a replication group with TLS, encryption, failover and no eviction", (variant) => {
    const template = packaged().template(variant);
    const [group = "", ...others] = template.idsOf("AWS::ElastiCache::ReplicationGroup");
    expect(others).toEqual([]);
    expect(template.property(group)).toMatchObject({
      Engine: "valkey",
      ClusterMode: "enabled",
      TransitEncryptionEnabled: true,
      TransitEncryptionMode: "required",
      AtRestEncryptionEnabled: true,
      AutomaticFailoverEnabled: true,
      MultiAZEnabled: true,
      CacheParameterGroupName: { Ref: "ValkeyParameters" },
      UserGroupIds: [{ Ref: "ValkeyUsers" }],
    });
    expect(template.property("ValkeyParameters", "Properties")).toEqual({
      "cluster-enabled": "yes",
      "maxmemory-policy": "noeviction",
    });
    expect(template.idsOf("AWS::ElastiCache::ServerlessCache")).toEqual([]);
    // It contains all executions, so the deletion of the stack must not delete it.
    const policy = variant === "own-in-existing-network" ? "Delete" : "RetainExceptOnCreate";
    expect(template.resource(group, "DeletionPolicy")).toBe(policy);
    expect(template.resource(group, "UpdateReplacePolicy")).toBe("Retain");
  });

  it.each(OWN)(
    "%s: IAM users, each with the rules of its function, and a disabled default user",
    (variant) => {
      const template = packaged().template(variant);
      const users = template.idsOf("AWS::ElastiCache::User");
      expect(template.property("ValkeyUsers", "UserIds")).toEqual(users.map((Ref) => ({ Ref })));
      for (const name of VALKEY_FUNCTIONS) {
        const user = String(at(template.environment(idOf(name)).VALKEY_USER, "Ref"));
        expect(template.property(user)).toMatchObject({
          Engine: "valkey",
          AuthenticationMode: { Type: "iam" },
          UserName: template.property(user, "UserId"),
          AccessString: expect.stringMatching(/^on ~ff:.* -@all \+/),
        });
        const role = String(at(template.property(idOf(name), "Role"), "Fn::GetAtt", 0));
        expect(JSON.stringify(template.property(role, "Policies"))).toContain(
          `"elasticache:Connect","Resource":[{"Fn::Sub":"arn:\${AWS::Partition}:elasticache:\${AWS::Region}:\${AWS::AccountId}:replicationgroup:\${ValkeyReplicationGroup}"},{"Fn::GetAtt":["${user}","Arn"]}]`,
        );
      }
      expect(template.property("DefaultUser")).toMatchObject({
        UserName: "default",
        AccessString: "off -@all",
      });
    },
  );

  it("has durable writes and engine 9 in prod, and neither in dev", () => {
    const noValue = { Ref: "AWS::NoValue" };
    for (const [variant, engine, family, durability] of [
      ["prod", "9.0", "valkey9", "sync"],
      ["restricted", "9.0", "valkey9", "disabled"],
      ["dev", "8.0", "valkey8", noValue],
    ] as const) {
      const template = packaged().template(variant);
      expect(template.property("ValkeyReplicationGroup")).toMatchObject({
        EngineVersion: engine,
        Durability: durability,
      });
      expect(template.property("ValkeyParameters", "CacheParameterGroupFamily")).toBe(family);
    }
  });

  it("encrypts data at rest with the given key", () => {
    const keyOf = (variant: string): unknown =>
      packaged().template(variant).property("ValkeyReplicationGroup", "KmsKeyId");
    expect(keyOf("restricted")).toBe(`${KEY}valkey`);
    expect(keyOf("prod")).toEqual({ Ref: "AWS::NoValue" });
  });
}

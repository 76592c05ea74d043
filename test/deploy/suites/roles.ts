/** The permissions of the functions. */

import { beforeAll, describe, expect, it } from "vitest";
import { FUNCTIONS, idOf, NAMES, type Packaged } from "#test/deploy/names.ts";
import { at, listOf, type Template } from "#test/deploy/template.ts";

/** All allowing statements of all policies. */
function allowed(template: Template): unknown[] {
  return template.resources.flatMap(([, resource]) =>
    [at(resource, "Properties"), ...listOf(at(resource, "Properties", "Policies"))]
      .flatMap((policy) => listOf(at(policy, "PolicyDocument", "Statement")))
      .filter((statement) => at(statement, "Effect") === "Allow"),
  );
}

export function roles(packaged: Packaged): void {
  describe.each(NAMES)("%s", (variant) => {
    let template: Template;
    beforeAll(() => {
      template = packaged().template(variant);
    });

    it("gives each function its own role, without wildcards that AWS does not require", () => {
      const roles = FUNCTIONS.map((name) => at(template.property(idOf(name), "Role"), "Fn::GetAtt", 0));
      expect(new Set(roles).size).toBe(FUNCTIONS.length);
      const statements = allowed(template);
      expect(statements.length).toBeGreaterThanOrEqual(8);
      for (const statement of statements) {
        const actions = listOf(at(statement, "Action")).map(String);
        expect(actions.filter((action) => !/^\w+:\w+$/.test(action))).toEqual([]);
        const isOfInterfaces = actions.every((action) =>
          /^ec2:\w+(NetworkInterfaces?|Subnets|PrivateIpAddresses)$/.test(action),
        );
        if (!isOfInterfaces) expect(JSON.stringify(at(statement, "Resource"))).not.toContain("*");
      }
    });

    it("lets only the AWS service of each role assume it", () => {
      for (const id of template.idsOf("AWS::IAM::Role")) {
        for (const statement of listOf(template.property(id, "AssumeRolePolicyDocument", "Statement"))) {
          expect(String(at(statement, "Principal", "Service"))).toMatch(
            /^(lambda|scheduler)\.amazonaws\.com$/,
          );
        }
      }
    });
  });
}

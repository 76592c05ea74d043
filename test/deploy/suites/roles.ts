/** The permissions of the functions. */

import { beforeAll, describe, expect, it } from "vitest";
import { ALL, FUNCTIONS, idOf, KEY, type Packaged } from "#test/deploy/names.ts";
import { at, listOf, type Template } from "#test/deploy/template.ts";

/** All allowing statements of a role. */
function allowed(template: Template, role: string): unknown[] {
  return listOf(template.property(role, "Policies"))
    .flatMap((policy) => listOf(at(policy, "PolicyDocument", "Statement")))
    .filter((statement) => at(statement, "Effect") === "Allow");
}

/** The actions of all statements of a role that allow something on a resource. */
export function actionsOn(template: Template, role: string, resource: unknown): string[] {
  return allowed(template, role)
    .filter((statement) => at(statement, "Resource") === resource)
    .flatMap((statement) => listOf(at(statement, "Action")).map(String));
}

/** The logical id of a function's role. */
function roleOf(template: Template, name: string): string {
  return String(at(template.property(idOf(name), "Role"), "Fn::GetAtt", 0));
}

/** The functions that sweep. */
const SWEEPERS = ["reconcile", "operate-write"];

const INTERFACES = /^ec2:\w+(NetworkInterfaces?|Subnets|PrivateIpAddresses)$/;
const TRACING = /^xray:Put(TraceSegments|TelemetryRecords)$/;

export function roles(packaged: Packaged): void {
  describe.each(ALL)("%s", (variant) => {
    let template: Template;
    beforeAll(() => {
      template = packaged().template(variant);
    });

    it("gives each function its own role, without wildcards that AWS does not require", () => {
      const roles = FUNCTIONS.map((name) => roleOf(template, name));
      expect(new Set(roles).size).toBe(FUNCTIONS.length);
      expect(template.idsOf("AWS::IAM::Policy")).toEqual([]);
      const statements = template.idsOf("AWS::IAM::Role").flatMap((role) => allowed(template, role));
      expect(statements.length).toBeGreaterThanOrEqual(8);
      for (const statement of statements) {
        const actions = listOf(at(statement, "Action")).map(String);
        expect(actions.filter((action) => !/^\w+:\w+$/.test(action))).toEqual([]);
        const needsWildcard = actions.every((action) => INTERFACES.test(action) || TRACING.test(action));
        if (!needsWildcard) expect(JSON.stringify(at(statement, "Resource"))).not.toContain("*");
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

  it("limits every role by the permissions boundary, if there is one", () => {
    const boundaries = (variant: string): unknown[] => {
      const template = packaged().template(variant);
      return template.idsOf("AWS::IAM::Role").map((id) => template.property(id, "PermissionsBoundary"));
    };
    expect(boundaries("restricted")).toEqual(Array(7).fill("arn:aws:iam::123456789012:policy/boundary"));
    expect(boundaries("prod")).toEqual(Array(7).fill({ Ref: "AWS::NoValue" }));
  });

  it("lets the functions use the customer-managed keys of their queues and their environment", () => {
    const restricted = packaged().template("restricted");
    const prod = packaged().template("prod");
    for (const name of FUNCTIONS) {
      const role = roleOf(restricted, name);
      expect(actionsOn(restricted, role, `${KEY}environment`)).toEqual(["kms:Decrypt"]);
      expect(actionsOn(restricted, role, `${KEY}queues`)).toEqual(
        name === "provision"
          ? []
          : name === "operate-read"
            ? ["kms:Decrypt"]
            : ["kms:GenerateDataKey", "kms:Decrypt"],
      );
      expect(JSON.stringify(allowed(prod, roleOf(prod, name)))).not.toContain("kms:");
    }
  });

  it("lets only reconcile and operate-write, which sweep, send messages about ended flows, if there is a queue", () => {
    const region = "eu-west-1";
    const queue = `arn:aws:sqs:${region}:123456789012:flow-ends`;
    const restricted = packaged().template("restricted");
    for (const name of FUNCTIONS) {
      expect(actionsOn(restricted, roleOf(restricted, name), queue)).toEqual(
        SWEEPERS.includes(name) ? ["sqs:SendMessage"] : [],
      );
    }
    for (const name of SWEEPERS) {
      const urlOf = (variant: string) =>
        packaged().template(variant).environment(idOf(name)).FLOW_EVENTS_QUEUE_URL;
      expect(urlOf("restricted")).toEqual({
        "Fn::Sub": `https://sqs.${region}.\${AWS::URLSuffix}/123456789012/flow-ends`,
      });
      expect(urlOf("prod")).toBe("");
    }
  });

  it("lets the functions send traces if tracing is Active", () => {
    for (const [variant, expected] of [
      ["restricted", ["xray:PutTraceSegments", "xray:PutTelemetryRecords"]],
      ["prod", []],
    ] as const) {
      const template = packaged().template(variant);
      for (const name of FUNCTIONS) {
        const actions = actionsOn(template, roleOf(template, name), "*");
        expect(actions.filter((action) => action.startsWith("xray:"))).toEqual(expected);
      }
    }
  });
}

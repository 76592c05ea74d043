/** The network of the functions, their endpoints, and the schedule. */

import { expect, it } from "vitest";
import { FUNCTIONS, idOf, NAMES, type Packaged, VALKEY_FUNCTIONS } from "#test/deploy/names.ts";
import { at, listOf } from "#test/deploy/template.ts";

export function network(packaged: Packaged): void {
  it("creates exactly the endpoints that the functions call from the VPC", () => {
    const services = (variant: string): string[] => {
      const template = packaged().template(variant);
      return template
        .idsOf("AWS::EC2::VPCEndpoint")
        .map(
          (id) =>
            `${template.property(id, "VpcEndpointType")} ${at(template.property(id, "ServiceName"), "Fn::Sub")}`,
        )
        .map((text) => text.replace(/com.amazonaws.\$\{AWS::Region\}\./, ""))
        .sort();
    };
    expect(services("prod")).toEqual(["Gateway s3", "Interface sqs"]);
    expect(services("existing-secret")).toEqual(["Gateway s3", "Interface secretsmanager", "Interface sqs"]);
    expect(services("existing-iam")).toEqual([]);
    for (const variant of NAMES.filter((name) => name !== "local")) {
      const inVpc = FUNCTIONS.filter((name) =>
        packaged().template(variant).property(idOf(name), "VpcConfig"),
      );
      expect(inVpc).toEqual(VALKEY_FUNCTIONS);
    }
  });

  it("lets the whole VPC reach the endpoints, and runs provision only after they exist", () => {
    const prod = packaged().template("prod");
    expect(prod.property("EndpointsSecurityGroup", "SecurityGroupIngress")).toMatchObject([
      { FromPort: 443, ToPort: 443, CidrIp: { "Fn::GetAtt": ["Vpc", "CidrBlock"] } },
    ]);
    expect(prod.property("ValkeyLibrary", "Network")).toContainEqual({ Ref: "S3Endpoint" });
    const secret = packaged().template("existing-secret");
    expect(secret.property("ValkeyLibrary", "Endpoints")).toEqual([{ Ref: "SecretsEndpoint" }]);
  });

  it("local has no VPC, no ElastiCache, no scheduler and no alarms; the others run the reconciler every minute", () => {
    const types = packaged()
      .template("local")
      .resources.map(([, resource]) => String(at(resource, "Type")));
    expect(types.filter((type) => /EC2|ElastiCache|Scheduler|CloudWatch|SNS/.test(type))).toEqual([]);
    for (const variant of NAMES.filter((name) => name !== "local")) {
      const template = packaged().template(variant);
      expect(template.property("ReconcileSchedule")).toMatchObject({
        ScheduleExpression: "rate(1 minute)",
        FlexibleTimeWindow: { Mode: "OFF" },
        Target: {
          Arn: { "Fn::GetAtt": [idOf("reconcile"), "Arn"] },
          RetryPolicy: { MaximumRetryAttempts: 0 },
        },
      });
      expect(Number(template.property(idOf("reconcile"), "Timeout"))).toBeLessThan(60);
    }
    expect(packaged().template("prod").property(idOf("reconcile"), "ReservedConcurrentExecutions")).toBe(1);
  });

  it("admits only credentials of the account to the endpoints, and in its own VPC no S3 but provision's response", () => {
    const statements = (variant: string, id: string): unknown[] => [
      ...listOf(packaged().template(variant).property(id, "PolicyDocument", "Statement")),
    ];
    const ownAccount = expect.objectContaining({
      Effect: "Allow",
      Condition: { StringEquals: { "aws:PrincipalAccount": { Ref: "AWS::AccountId" } } },
    });
    const response = expect.objectContaining({
      Effect: "Allow",
      Action: "s3:PutObject",
      // biome-ignore lint/suspicious/noTemplateCurlyInString: CloudFormation replaces it.
      Resource: { "Fn::Sub": "arn:${AWS::Partition}:s3:::cloudformation-custom-resource-response-*/*" },
    });
    expect(statements("prod", "SqsEndpoint")).toEqual([ownAccount]);
    expect(statements("prod", "S3Endpoint")).toEqual([response]);
    expect(statements("existing-secret", "SqsEndpoint")).toEqual([ownAccount]);
    expect(statements("existing-secret", "SecretsEndpoint")).toEqual([ownAccount]);
    expect(statements("existing-secret", "S3Endpoint")).toEqual([response, ownAccount]);
  });

  it("outputs what peering and workers need", () => {
    const outputOf = (variant: string, name: string): unknown =>
      at(Object.fromEntries(packaged().template(variant).outputs())[name], "Value");
    expect(outputOf("prod", "VpcId")).toEqual({ Ref: "Vpc" });
    expect(outputOf("prod", "SubnetIds")).toEqual({
      "Fn::Join": [",", [{ Ref: "SubnetA" }, { Ref: "SubnetB" }]],
    });
    expect(outputOf("prod", "RouteTableIds")).toEqual({ Ref: "RouteTable" });
    for (const [variant, name] of [
      ["prod", "FunctionsSecurityGroup"],
      ["prod", "ValkeySecurityGroup"],
      ["prod", "EndpointsSecurityGroup"],
      ["existing-secret", "EndpointsSecurityGroup"],
      ["own-in-existing-network", "ValkeySecurityGroup"],
    ] as const) {
      expect(outputOf(variant, name), `${variant} ${name}`).toEqual({ "Fn::GetAtt": [name, "GroupId"] });
    }
  });
}

/** The functions and their triggers. */

import { beforeAll, describe, expect, it } from "vitest";
import { FUNCTIONS, idOf, KEY, NAMES, type Packaged } from "#test/deploy/names.ts";
import type { Template } from "#test/deploy/template.ts";

export function functions(packaged: Packaged): void {
  describe.each(NAMES)("%s", (variant) => {
    let template: Template;
    beforeAll(() => {
      template = packaged().template(variant);
    });

    it("has six functions on Node 24 and arm64 with source maps; only dispatch allows recursion", () => {
      expect(template.idsOf("AWS::Lambda::Function").sort()).toEqual(FUNCTIONS.map(idOf).sort());
      for (const name of FUNCTIONS) {
        expect(template.property(idOf(name))).toMatchObject({
          Handler: `dist/${name}/index.handler`,
          Runtime: "nodejs24.x",
          Architectures: ["arm64"],
          Environment: { Variables: { NODE_OPTIONS: "--enable-source-maps" } },
        });
        expect(template.property(idOf(name), "RecursiveLoop")).toBe(
          name === "dispatch" ? "Allow" : undefined,
        );
      }
    });

    it("triggers dispatch with batches, partial failure responses, limited concurrency and metrics", () => {
      const mappings = template.idsOf("AWS::Lambda::EventSourceMapping");
      expect(mappings).toHaveLength(1);
      expect(template.property(mappings[0] ?? "")).toMatchObject({
        BatchSize: 10,
        EventSourceArn: { "Fn::GetAtt": ["CompletionsQueue", "Arn"] },
        FunctionName: { "Fn::GetAtt": [idOf("dispatch"), "Arn"] },
        FunctionResponseTypes: ["ReportBatchItemFailures"],
        ScalingConfig: { MaximumConcurrency: 20 },
        MetricsConfig: { Metrics: ["EventCount"] },
      });
    });
  });

  it("names the stage to the functions that use Powertools", () => {
    for (const [variant, stage] of [
      ["prod", "prod"],
      ["restricted", "test"],
    ] as const) {
      const stages = FUNCTIONS.map(
        (name) => packaged().template(variant).environment(idOf(name)).SLUICE_STAGE,
      );
      expect(stages).toEqual([stage, stage, undefined, stage, stage, stage]);
    }
  });

  it("encrypts logs and environment variables with the given keys, and traces as told", () => {
    const noValue = { Ref: "AWS::NoValue" };
    for (const [variant, log, environment, mode] of [
      ["restricted", `${KEY}logs`, `${KEY}environment`, "Active"],
      ["prod", noValue, noValue, "PassThrough"],
    ] as const) {
      const template = packaged().template(variant);
      const logs = template.idsOf("AWS::Logs::LogGroup");
      expect(logs.map((id) => template.property(id, "KmsKeyId"))).toEqual(FUNCTIONS.map(() => log));
      for (const name of FUNCTIONS) {
        expect(template.property(idOf(name))).toMatchObject({
          KmsKeyArn: environment,
          TracingConfig: { Mode: mode },
        });
      }
    }
  });

  it("blocks public access to the bucket of the artifacts", () => {
    expect(packaged().template("prod").property("ServerlessDeploymentBucket")).toMatchObject({
      PublicAccessBlockConfiguration: {
        BlockPublicAcls: true,
        BlockPublicPolicy: true,
        IgnorePublicAcls: true,
        RestrictPublicBuckets: true,
      },
    });
  });
}

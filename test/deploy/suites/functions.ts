/** The functions and their triggers. */

import { beforeAll, describe, expect, it } from "vitest";
import { FUNCTIONS, idOf, NAMES, type Packaged } from "#test/deploy/names.ts";
import type { Template } from "#test/deploy/template.ts";

export function functions(packaged: Packaged): void {
  describe.each(NAMES)("%s", (variant) => {
    let template: Template;
    beforeAll(() => {
      template = packaged().template(variant);
    });

    it("has four functions on Node 24 and arm64 with source maps; only dispatch allows recursion", () => {
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
}

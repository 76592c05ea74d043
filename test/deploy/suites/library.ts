/** The custom resource that loads the library. */

import { beforeAll, describe, expect, it } from "vitest";
import { ALL, idOf, type Packaged } from "#test/deploy/names.ts";
import { at, listOf, type Template } from "#test/deploy/template.ts";

export function library(packaged: Packaged): void {
  describe.each(ALL)("%s", (variant) => {
    let template: Template;
    beforeAll(() => {
      template = packaged().template(variant);
    });

    it("loads a changed library before it updates dispatch and reconcile, and waits for the result", () => {
      expect(template.property("ValkeyLibrary")).toMatchObject({
        ServiceToken: { "Fn::GetAtt": [idOf("provision"), "Arn"] },
        LibraryHash: expect.stringMatching(/^[0-9a-f]{64}$/),
      });
      for (const name of ["dispatch", "reconcile"]) {
        expect(template.resource(idOf(name), "DependsOn")).toContain("ValkeyLibrary");
      }
      // Longer than Lambda's two retries, and much shorter than CloudFormation's default of one hour.
      const seconds = Number(template.property("ValkeyLibrary", "ServiceTimeout"));
      const timeout = Number(template.property(idOf("provision"), "Timeout"));
      expect(seconds).toBeGreaterThan(3 * timeout + 180);
      expect(seconds).toBeLessThan(900);
      for (const [, output] of template.outputs()) {
        const [id, attribute] = listOf(at(output, "Value", "Fn::GetAtt")).map(String);
        if (id === "ValkeyLibrary") {
          expect(["LibraryVersion", "LibraryEdition", "Library", "Partitions"]).toContain(attribute);
        }
      }
    });
  });
}

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { noticesOf, readPackages, sbomOf, type ThirdPartyPackage } from "#scripts/build/third-party.ts";
import { bundle } from "#scripts/build.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));

describe("the packages in a bundle", () => {
  let packages: ThirdPartyPackage[];
  let names: string[];
  beforeAll(async () => {
    const { contents } = await bundle(join(ROOT, "functions/dispatch/handler.ts"));
    packages = readPackages(contents.folders);
    names = [...contents.packages.keys()].filter((name) => !name.startsWith("sluice"));
  });

  it("are those that the bundle contains, with their installed versions", async () => {
    expect(new Set(packages.map(({ name }) => name))).toEqual(new Set(names));
    for (const { name, version } of packages.filter(
      ({ folder }) => !/node_modules.*node_modules/.test(folder),
    )) {
      const path = join(ROOT, "node_modules", name, "package.json");
      expect(JSON.parse(await readFile(path, "utf8")).version).toBe(version);
    }
  });

  it("all have a notice: the text of their licence file, or the standard text with their author", () => {
    const notices = noticesOf(packages);
    for (const { name, version, licence } of packages) {
      expect(notices).toContain(`${name}@${version} (${licence})\n`);
    }
    expect(notices).toMatch(/^Sluice \(Apache-2\.0\)\n/);
    expect(notices).toContain("iovalkey");
    // @middy/core has no licence file.
    expect(notices).toMatch(
      /@middy\/core@[\d.]+ \(MIT\)\n\nCopyright \(c\) .+\n\nPermission is hereby granted/,
    );
  });

  it("without a known licence text fail the build", () => {
    const unknown = { name: "x", version: "1.0.0", licence: "EUPL-1.2", author: "y", folder: "nowhere" };
    expect(() => noticesOf([unknown])).toThrow("x has no licence file, and EUPL-1.2 has no text here");
  });

  it("are in a CycloneDX SBOM, with the hash of the lock file, and which function contains them", () => {
    const sbom = sbomOf(new Map([["dispatch", packages]]));
    expect(sbom).toMatchObject({
      bomFormat: "CycloneDX",
      specVersion: "1.6",
      serialNumber: expect.stringMatching(
        /^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}$/,
      ),
      components: expect.arrayContaining([
        {
          type: "library",
          "bom-ref": expect.stringMatching(/^pkg:npm\/%40aws-sdk\/client-sqs@\d/),
          group: "@aws-sdk",
          name: "client-sqs",
          version: expect.any(String),
          purl: expect.stringMatching(/^pkg:npm\/%40aws-sdk\/client-sqs@\d/),
          licenses: [{ license: { id: "Apache-2.0" } }],
          hashes: [{ alg: "SHA-512", content: expect.stringMatching(/^[0-9a-f]{128}$/) }],
        },
      ]),
      dependencies: [
        { dependsOn: [expect.stringMatching(/^pkg:npm\/sluice@[\d.]+#functions\/dispatch$/)] },
        { dependsOn: packages.map(({ name, version }) => `pkg:npm/${name.replace("@", "%40")}@${version}`) },
      ],
    });
    expect(sbomOf(new Map([["dispatch", packages]]))).toEqual(sbom);
  });
});

/** The packages that the bundles contain: their licence notices, and a software bill of materials (SBOM). */

import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const LICENCE_FILE = /^(?:licen[cs]e|notice|copying)(?:\.|$)/i;
const RULE = `\n${"-".repeat(80)}\n\n`;

export interface ThirdPartyPackage {
  readonly name: string;
  readonly version: string;
  /** The SPDX identifier. */
  readonly licence: string;
  readonly author: string;
  /** Relative to the project. */
  readonly folder: string;
}

/** Reads the packages in folders below `node_modules`. Throws if one does not state its licence. */
export function readPackages(folders: Iterable<string>): ThirdPartyPackage[] {
  const packages = [...folders].map((folder): ThirdPartyPackage => {
    const fields: Record<string, unknown> = JSON.parse(
      readFileSync(join(ROOT, folder, "package.json"), "utf8"),
    );
    const { name, version, license, author } = fields;
    if (typeof name !== "string" || typeof version !== "string" || typeof license !== "string") {
      throw new Error(`${folder}/package.json lacks a name, a version or an SPDX licence`);
    }
    return { name, version, licence: license, author: authorOf(author, name), folder };
  });
  return packages.sort((one, other) => idOf(one).localeCompare(idOf(other), "en"));
}

function authorOf(author: unknown, name: string): string {
  if (typeof author === "string") return author;
  const named = typeof author === "object" && author !== null && "name" in author ? author.name : undefined;
  return typeof named === "string" ? named : `the authors of ${name}`;
}

function idOf({ name, version }: ThirdPartyPackage): string {
  return `${name}@${version}`;
}

/** The licence notices of an artifact. Packages with the same text share it. */
export function noticesOf(packages: readonly ThirdPartyPackage[]): string {
  const sections = new Map<string, { text: string; ids: string[] }>();
  for (const one of packages) {
    const text = licenceTextOf(one);
    // Some texts differ only in their indentation.
    const key = text.replaceAll(/\s+/g, " ");
    const section = sections.get(key) ?? { text, ids: [] };
    sections.set(key, section);
    section.ids.push(`${idOf(one)} (${one.licence})`);
  }
  return [
    `Sluice (Apache-2.0)\n\n${readFileSync(join(ROOT, "LICENSE"), "utf8").trim()}\n`,
    ...[...sections.values()].map(({ text, ids }) => `${ids.join("\n")}\n\n${text}\n`),
  ].join(RULE);
}

/** The licence files of a package, or else the standard text of its licence. */
function licenceTextOf({ name, licence, author, folder }: ThirdPartyPackage): string {
  const path = join(ROOT, folder);
  const files = existsSync(path) ? readdirSync(path).filter((file) => LICENCE_FILE.test(file)) : [];
  if (files.length > 0) {
    return files
      .sort()
      .map((file) => readFileSync(join(path, file), "utf8").trim())
      .join("\n\n");
  }
  if (licence === "Apache-2.0") return readFileSync(join(ROOT, "LICENSE"), "utf8").trim();
  const standard = STANDARD_TEXTS[licence];
  if (standard === undefined) throw new Error(`${name} has no licence file, and ${licence} has no text here`);
  return `Copyright (c) ${author}\n\n${standard}`;
}

const MIT_GRANT =
  "Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated\n" +
  'documentation files (the "Software"), to deal in the Software without restriction, including without limitation the\n' +
  "rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to\n" +
  "permit persons to whom the Software is furnished to do so";
const MIT_CONDITIONS =
  ", subject to the following conditions:\n\n" +
  "The above copyright notice and this permission notice shall be included in all copies or substantial portions of the\n" +
  "Software.";
const MIT_DISCLAIMER =
  '\n\nTHE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE\n' +
  "WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR\n" +
  "COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR\n" +
  "OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.";
const STANDARD_TEXTS: Readonly<Record<string, string>> = {
  MIT: `${MIT_GRANT}${MIT_CONDITIONS}${MIT_DISCLAIMER}`,
  "MIT-0": `${MIT_GRANT}.${MIT_DISCLAIMER}`,
};

/** The SBOM of the functions in CycloneDX 1.6: which packages each of them contains. The same input gives the same SBOM. */
export function sbomOf(functions: ReadonlyMap<string, readonly ThirdPartyPackage[]>): object {
  const root: { name: string; version: string; license: string } = JSON.parse(
    readFileSync(join(ROOT, "package.json"), "utf8"),
  );
  const libraries = new Map([...functions.values()].flat().map((one) => [purlOf(one), one]));
  const sluice = `pkg:npm/${root.name}@${root.version}`;
  const refOf = (name: string): string => `${sluice}#functions/${name}`;
  const applications = [...functions.keys()].map((name) => ({
    type: "application",
    "bom-ref": refOf(name),
    name: `${root.name}-${name}`,
    version: root.version,
    licenses: [{ license: { id: root.license } }],
  }));
  const body = {
    metadata: {
      component: {
        type: "application",
        "bom-ref": sluice,
        name: root.name,
        version: root.version,
        purl: sluice,
        licenses: [{ license: { id: root.license } }],
      },
    },
    components: [...applications, ...[...libraries].map(([purl, one]) => componentOf(purl, one))],
    dependencies: [
      { ref: sluice, dependsOn: [...functions.keys()].map(refOf) },
      ...[...functions].map(([name, packages]) => ({ ref: refOf(name), dependsOn: packages.map(purlOf) })),
    ],
  };
  return {
    bomFormat: "CycloneDX",
    specVersion: "1.6",
    serialNumber: `urn:uuid:${uuidOf(JSON.stringify(body))}`,
    version: 1,
    ...body,
  };
}

function componentOf(purl: string, { name, version, licence, folder }: ThirdPartyPackage): object {
  const integrity = integrityOf(folder);
  const [, group, bare = name] = /^(@[^/]+)\/(.+)$/.exec(name) ?? [];
  return {
    type: "library",
    "bom-ref": purl,
    ...(group === undefined ? {} : { group }),
    name: bare,
    version,
    purl,
    licenses: [{ license: { id: licence } }],
    ...(integrity === undefined ? {} : { hashes: [{ alg: "SHA-512", content: integrity }] }),
  };
}

function purlOf({ name, version }: ThirdPartyPackage): string {
  return `pkg:npm/${name.replace("@", "%40")}@${version}`;
}

/** The SHA-512 of the package's archive in hexadecimal digits, from the lock file. */
function integrityOf(folder: string): string | undefined {
  const { packages }: { packages: Readonly<Record<string, { readonly integrity?: string }>> } = JSON.parse(
    readFileSync(join(ROOT, "package-lock.json"), "utf8"),
  );
  const [, base64] =
    /^sha512-(.+)$/.exec(packages[folder.slice(folder.indexOf("node_modules/"))]?.integrity ?? "") ?? [];
  return base64 === undefined ? undefined : Buffer.from(base64, "base64").toString("hex");
}

/** A UUID of version 8 (RFC 9562), which the text determines. */
function uuidOf(text: string): string {
  const digits = createHash("sha256").update(text).digest("hex");
  return [
    digits.slice(0, 8),
    digits.slice(8, 12),
    `8${digits.slice(13, 16)}`,
    `8${digits.slice(17, 20)}`,
    digits.slice(20, 32),
  ].join("-");
}

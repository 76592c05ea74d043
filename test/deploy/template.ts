/** A CloudFormation template, as osls writes it. */

import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { packageStage, type StagePackage } from "#scripts/osls.ts";
import { VARIANTS } from "#scripts/variants.ts";

/** The value at a path of keys and indexes, or undefined. */
export function at(value: unknown, ...path: readonly (string | number)[]): unknown {
  let found = value;
  for (const key of path) {
    if (typeof found !== "object" || found === null) return undefined;
    found = Reflect.get(found, key);
  }
  return found;
}

/** The elements of a list. As in policies, a single value counts as a list of one. */
export function listOf(value: unknown): readonly unknown[] {
  if (value === undefined) return [];
  return Array.isArray(value) ? value : [value];
}

export function entriesOf(value: unknown): [string, unknown][] {
  return typeof value === "object" && value !== null ? Object.entries(value) : [];
}

export class Template {
  readonly #body: unknown;

  constructor(body: unknown) {
    this.#body = body;
  }

  /** By logical id. */
  get resources(): [id: string, resource: unknown][] {
    return entriesOf(at(this.#body, "Resources"));
  }

  /** Logical ids of the resources of a type. */
  idsOf(type: string): string[] {
    return this.resources.filter(([, resource]) => at(resource, "Type") === type).map(([id]) => id);
  }

  resource(id: string, ...path: readonly (string | number)[]): unknown {
    return at(this.#body, "Resources", id, ...path);
  }

  property(id: string, ...path: readonly (string | number)[]): unknown {
    return this.resource(id, "Properties", ...path);
  }

  outputs(): [string, unknown][] {
    return entriesOf(at(this.#body, "Outputs"));
  }

  /** A function's environment, by its logical id. */
  environment(id: string): Readonly<Record<string, unknown>> {
    return Object.fromEntries(entriesOf(this.property(id, "Environment", "Variables")));
  }
}

/** Every variant of a deployment, packaged once. */
export class Packages implements AsyncDisposable {
  readonly #folder: string;
  readonly #packages = new Map<string, { readonly stage: StagePackage; readonly template: Template }>();

  private constructor(folder: string) {
    this.#folder = folder;
  }

  static async make(): Promise<Packages> {
    const packages = new Packages(await mkdtemp(join(tmpdir(), "sluice-packages-")));
    // Sequential, because osls uses one working folder.
    for (const { name, stage, options } of VARIANTS) {
      const made = await packageStage(stage, options, join(packages.#folder, name));
      const body: unknown = JSON.parse(await readFile(made.template, "utf8"));
      packages.#packages.set(name, { stage: made, template: new Template(body) });
    }
    return packages;
  }

  template(variant: string): Template {
    return this.#of(variant).template;
  }

  artifact(variant: string, functionName: string): Promise<Buffer> {
    return readFile(join(this.#of(variant).stage.folder, `${functionName}.zip`));
  }

  #of(variant: string): { readonly stage: StagePackage; readonly template: Template } {
    const found = this.#packages.get(variant);
    if (found === undefined) throw new Error(`there is no variant ${variant}`);
    return found;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return rm(this.#folder, { recursive: true, force: true });
  }
}

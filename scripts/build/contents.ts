/** The contents of a bundle, from esbuild's metafile. */

import { basename } from "node:path";
import type { Metafile } from "esbuild";

/** Bytes of minified code, without source maps. */
export interface Size {
  /** In files that are loaded when the function starts. */
  readonly atStart: number;
  /** In files that are loaded on first use. */
  readonly late: number;
}

export interface BundleContents extends Size {
  /** Names of the files that the entry loads, directly or not. esbuild also generates unused ones. */
  readonly files: ReadonlySet<string>;
  /** By package name; SLUICE and LUA stand for this project. */
  readonly packages: ReadonlyMap<string, Size>;
  /** The folders of the packages, relative to the project. */
  readonly folders: ReadonlySet<string>;
  /** Import specifiers as written in the sources. */
  readonly imported: ReadonlySet<string>;
}

export const SLUICE = "sluice";
export const LUA = "sluice/lua";

/** The innermost package of a path. */
const PACKAGE_FOLDER = /^.*node_modules\/((?:@[^/]+\/)?[^/]+)/;
const NONE: Size = { atStart: 0, late: 0 };

/** Sums up a bundle. `entry` is the name of the file that Lambda loads. */
export function contentsOf({ inputs, outputs }: Metafile, entry: string): BundleContents {
  const byName = new Map(Object.entries(outputs).map(([path, output]) => [basename(path), output]));
  const first = reachable(byName, [entry], ({ kind }) => kind !== "dynamic-import");
  const files = reachable(byName, first, () => true);
  let whole = NONE;
  const packages = new Map<string, Size>();
  const folders = new Set<string>();
  for (const name of files) {
    const { bytes = 0, inputs: parts = {} } = byName.get(name) ?? {};
    const sizeOf = (count: number): Size =>
      first.has(name) ? { atStart: count, late: 0 } : { atStart: 0, late: count };
    whole = sum(whole, sizeOf(bytes));
    // The code that joins the modules of a file counts as Sluice's.
    let glue = bytes;
    for (const [path, { bytesInOutput: count }] of Object.entries(parts)) {
      const owner = packageOf(path);
      packages.set(owner, sum(packages.get(owner), sizeOf(count)));
      const [folder] = PACKAGE_FOLDER.exec(path) ?? [];
      if (folder !== undefined) folders.add(folder);
      glue -= count;
    }
    packages.set(SLUICE, sum(packages.get(SLUICE), sizeOf(glue)));
  }
  const imports = Object.values(inputs).flatMap((input) => input.imports);
  return {
    ...whole,
    files,
    packages,
    folders,
    imported: new Set(imports.map(({ original, path }) => original ?? path)),
  };
}

type Outputs = ReadonlyMap<string, Metafile["outputs"][string]>;

function reachable(
  outputs: Outputs,
  from: Iterable<string>,
  follows: (imported: Metafile["outputs"][string]["imports"][number]) => boolean,
): Set<string> {
  const reached = new Set(from);
  // Iterating a Set includes the elements that the loop adds.
  for (const name of reached) {
    for (const imported of outputs.get(name)?.imports ?? []) {
      if (imported.external !== true && follows(imported)) reached.add(basename(imported.path));
    }
  }
  return reached;
}

/** The innermost package of a path. Virtual modules have no folder and count as Sluice's. */
function packageOf(path: string): string {
  const [, name] = PACKAGE_FOLDER.exec(path) ?? [];
  return name ?? (path.startsWith("lua/") ? LUA : SLUICE);
}

function sum(one: Size = NONE, other: Size): Size {
  return { atStart: one.atStart + other.atStart, late: one.late + other.late };
}

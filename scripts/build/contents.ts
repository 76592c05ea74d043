/** What a bundle consists of, read from what esbuild tells of it. */

import { basename } from "node:path";
import type { Metafile } from "esbuild";

/** Bytes of minified code, source maps not counted. */
export interface Size {
  /** In files that are loaded at the start of the function. */
  readonly atStart: number;
  /** In files that are loaded when they are first needed. */
  readonly late: number;
}

export interface Contents extends Size {
  /** The files that the entry comes to load, by their names; esbuild also makes some that nobody loads. */
  readonly files: ReadonlySet<string>;
  /** By the package's name, and by SLUICE and LUA for our own. */
  readonly packages: ReadonlyMap<string, Size>;
  /** What modules import, as they say it, wherever it is then found. */
  readonly imported: ReadonlySet<string>;
}

export const SLUICE = "sluice";
export const LUA = "sluice/lua";

const NONE: Size = { atStart: 0, late: 0 };

/** `entry` is the name of the file that Lambda loads. */
export function contentsOf({ inputs, outputs }: Metafile, entry: string): Contents {
  const byName = new Map(Object.entries(outputs).map(([path, output]) => [basename(path), output]));
  const first = reachable(byName, [entry], ({ kind }) => kind !== "dynamic-import");
  const files = reachable(byName, first, () => true);
  let whole = NONE;
  const packages = new Map<string, Size>();
  for (const name of files) {
    const { bytes = 0, inputs: parts = {} } = byName.get(name) ?? {};
    const sizeOf = (count: number): Size =>
      first.has(name) ? { atStart: count, late: 0 } : { atStart: 0, late: count };
    whole = sum(whole, sizeOf(bytes));
    // What joins the modules of a file is ours as well.
    let joints = bytes;
    for (const [path, { bytesInOutput: count }] of Object.entries(parts)) {
      const owner = packageOf(path);
      packages.set(owner, sum(packages.get(owner), sizeOf(count)));
      joints -= count;
    }
    packages.set(SLUICE, sum(packages.get(SLUICE), sizeOf(joints)));
  }
  const imports = Object.values(inputs).flatMap((input) => input.imports);
  return {
    ...whole,
    files,
    packages,
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
  // A set hands over what is added to it on the way.
  for (const name of reached) {
    for (const imported of outputs.get(name)?.imports ?? []) {
      if (imported.external !== true && follows(imported)) reached.add(basename(imported.path));
    }
  }
  return reached;
}

/** A package within another one's folder is itself; virtual modules have no folder and are ours. */
function packageOf(path: string): string {
  const [, name] = /.*node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path) ?? [];
  return name ?? (path.startsWith("lua/") ? LUA : SLUICE);
}

function sum(one: Size = NONE, other: Size): Size {
  return { atStart: one.atStart + other.atStart, late: one.late + other.late };
}

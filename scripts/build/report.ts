import { PACKAGE_GROUPS } from "#scripts/build/allowed-packages.ts";
import type { BundleContents, Size } from "#scripts/build/contents.ts";

/** A table of the bundles' sizes by reason, optionally with every package. */
export function describeBundles(bundles: ReadonlyMap<string, BundleContents>, withPackages: boolean): string {
  const names = [...bundles.keys()];
  const contents = [...bundles.values()];
  const row = (cells: readonly string[], text: string): string =>
    `${cells.map((cell, at) => cell.padStart(Math.max(9, names[at]?.length ?? 0))).join("  ")}  ${text}`.trimEnd();
  const sizes = (of: (bundle: BundleContents) => number, text: string): string =>
    row(
      contents.map((bundle) => kilobytes(of(bundle))),
      text,
    );
  const ofPackages = (packages: readonly string[]) => (bundle: BundleContents) =>
    packages.reduce((total, name) => total + whole(bundle.packages.get(name)), 0);
  return [
    row(names, "KB of minified code"),
    sizes(whole, "in total, of which"),
    sizes(({ atStart }) => atStart, "are loaded at the start"),
    sizes(({ late }) => late, "are loaded on first use"),
    "",
    ...PACKAGE_GROUPS.filter(({ packages }) =>
      contents.some((bundle) => ofPackages(packages)(bundle) > 0),
    ).flatMap(({ name, why, packages }) => [
      sizes(ofPackages(packages), `${name}: ${why}`),
      ...(withPackages ? packages.map((one) => sizes(ofPackages([one]), `  ${one}`)) : []),
    ]),
  ].join("\n");
}

function whole({ atStart, late }: Size = { atStart: 0, late: 0 }): number {
  return atStart + late;
}

function kilobytes(bytes: number): string {
  return bytes === 0 ? "" : (bytes / 1024).toFixed(bytes < 10_240 ? 1 : 0);
}

/** The type declarations of the npm package. */

import { join, posix, relative } from "node:path";
import ts from "typescript";

/**
 * Returns the declarations that consumers of `entries` need, by path: those of the entries, and of each module that they
 * name. Paths are relative to `root`. Imports by an alias of this project (`#shared/…`) become relative imports.
 *
 * @throws Error if the modules have type errors.
 */
export function declarationsOf(root: string, entries: readonly string[]): Map<string, string> {
  const emitted = emit(root, entries);
  const wanted = new Map<string, string>();
  const open = entries.map(declarationPath);
  for (const path of open) {
    const text = emitted.get(path);
    if (wanted.has(path)) continue;
    if (text === undefined) throw new Error(`TypeScript emitted no ${path}`);
    const { rewritten, modules } = withRelativeImports(path, text);
    wanted.set(path, rewritten);
    // Iterating an array includes the elements that the loop adds.
    open.push(...modules.map(declarationPath));
  }
  return wanted;
}

function emit(root: string, entries: readonly string[]): ReadonlyMap<string, string> {
  const { config } = ts.readConfigFile(join(root, "tsconfig.json"), ts.sys.readFile);
  const { options } = ts.parseJsonConfigFileContent({ ...config, include: [] }, ts.sys, root);
  const program = ts.createProgram(
    entries.map((entry) => join(root, entry)),
    { ...options, noEmit: false, declaration: true, emitDeclarationOnly: true, rootDir: root, outDir: root },
  );
  const emitted = new Map<string, string>();
  const { diagnostics } = program.emit(undefined, (path, text) => emitted.set(relative(root, path), text));
  const errors = [...ts.getPreEmitDiagnostics(program), ...diagnostics];
  if (errors.length > 0) {
    throw new Error(
      ts.formatDiagnostics(errors, {
        getCurrentDirectory: () => root,
        getCanonicalFileName: (name) => name,
        getNewLine: () => "\n",
      }),
    );
  }
  return emitted;
}

/** Replaces the imports of this project's modules in the declarations at `path`, and lists these modules. */
function withRelativeImports(path: string, text: string): { rewritten: string; modules: string[] } {
  const modules: string[] = [];
  let rewritten = "";
  let end = 0;
  for (const { fileName, pos } of ts.preProcessFile(text).importedFiles) {
    if (!fileName.startsWith("#")) continue;
    const module = fileName.slice(1);
    modules.push(module);
    const target = posix.relative(posix.dirname(path), module.replace(/\.ts$/, ".js"));
    // The range may include the quotation marks.
    const start = text.indexOf(fileName, pos);
    rewritten += text.slice(end, start) + (target.startsWith(".") ? target : `./${target}`);
    end = start + fileName.length;
  }
  return { rewritten: rewritten + text.slice(end), modules };
}

function declarationPath(module: string): string {
  return module.replace(/\.ts$/, ".d.ts");
}

import { fileURLToPath } from "node:url";
import ts from "typescript";
import { expect, test } from "vitest";
import { examplesOf, PAGES_WITH_EXAMPLES } from "#test/support/doc-examples.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
/** The package's own name leads to the sources of its entries. */
const PATHS = { sluice: [`${ROOT}api/index.ts`], "sluice/*": [`${ROOT}api/*.ts`] };

test("the examples of each page, put together, have no type errors", () => {
  const sources = new Map(
    PAGES_WITH_EXAMPLES.map((page, position) => [
      `${ROOT}test/docs/example-${position}.ts`,
      examplesOf(page).join("\n"),
    ]),
  );
  for (const source of sources.values()) expect(source).toContain('from "sluice');
  const { config } = ts.readConfigFile(`${ROOT}tsconfig.json`, ts.sys.readFile);
  const { options } = ts.parseJsonConfigFileContent({ ...config, include: [] }, ts.sys, ROOT);
  const host = ts.createCompilerHost(options);
  const { fileExists, readFile, getSourceFile } = host;
  host.fileExists = (path) => sources.has(path) || fileExists(path);
  host.readFile = (path) => sources.get(path) ?? readFile(path);
  host.getSourceFile = (path, ...rest) => {
    const source = sources.get(path);
    return source === undefined
      ? getSourceFile(path, ...rest)
      : ts.createSourceFile(path, source, ts.ScriptTarget.ES2024);
  };
  const program = ts.createProgram([...sources.keys()], { ...options, paths: PATHS }, host);
  const diagnostics = [...sources.keys()].flatMap((path) => {
    const source = program.getSourceFile(path);
    return [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)];
  });
  expect(diagnostics.map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, "\n"))).toEqual(
    [],
  );
});

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import ts from "typescript";
import { expect, test } from "vitest";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const EXAMPLE = `${ROOT}test/docs/embed-example.ts`;

test("the code of docs/embed.md, put together, has no type errors", () => {
  const page = readFileSync(`${ROOT}docs/embed.md`, "utf8");
  const blocks = [...page.matchAll(/^```ts\n([\s\S]*?)^```$/gm)].map(([, code = ""]) => code);
  expect(blocks).toHaveLength(4);
  const { config } = ts.readConfigFile(`${ROOT}tsconfig.json`, ts.sys.readFile);
  const { options } = ts.parseJsonConfigFileContent({ ...config, include: [] }, ts.sys, ROOT);
  const host = ts.createCompilerHost(options);
  const { fileExists, readFile, getSourceFile } = host;
  host.fileExists = (path) => path === EXAMPLE || fileExists(path);
  host.readFile = (path) => (path === EXAMPLE ? blocks.join("\n") : readFile(path));
  host.getSourceFile = (path, ...rest) =>
    path === EXAMPLE
      ? ts.createSourceFile(path, blocks.join("\n"), ts.ScriptTarget.ES2024)
      : getSourceFile(path, ...rest);
  const program = ts.createProgram([EXAMPLE], options, host);
  const source = program.getSourceFile(EXAMPLE);
  const diagnostics = [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)];
  expect(diagnostics.map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, "\n"))).toEqual(
    [],
  );
});

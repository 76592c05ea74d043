import { fileURLToPath } from "node:url";
import ts from "typescript";
import { beforeAll, describe, expect, test } from "vitest";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const ERRORS = [
  "ConfigurationError",
  "InvalidRecordError",
  "LeaseLostError",
  "NotReplicatedError",
  "ProtocolError",
  "PublishError",
  "RefusedError",
  "SluiceError",
  "SubmissionError",
  "UnreachableError",
  "ValkeyError",
];
/** The values of each entry of the npm package. Adding one is a decision: it can only be removed in a major version. */
const VALUES: Readonly<Record<string, readonly string[]>> = {
  index: [
    ...ERRORS,
    "cancelFlow",
    "command",
    "completeExecution",
    "connect",
    "parseExecutionId",
    "parseFlowId",
    "parseLaneId",
    "parseWorkflow",
    "readFlowSummary",
    "replayExecution",
    "submitFlow",
    "unwrap",
  ],
  worker: [
    "MAX_RESULT_BYTES",
    "NonRetryableError",
    "TaskTimeoutError",
    "containerWorker",
    "defineTask",
    "lambdaWorker",
    "promoteDue",
    "workBatch",
  ],
  dispatch: [
    "DEFAULT_PARTITION_CONFIG",
    "ExecKeys",
    "FlowKeys",
    "IndexKeys",
    "PartitionRouter",
    "createDispatcher",
  ],
  testing: ["startTestStack"],
};

interface Exported {
  readonly name: string;
  readonly isValue: boolean;
  readonly isCallable: boolean;
  readonly documentation: string;
  readonly hasExample: boolean;
}

let program: ts.Program;

function exportsOf(entry: string): Exported[] {
  const checker = program.getTypeChecker();
  const source = program.getSourceFile(`${ROOT}api/${entry}.ts`);
  const module = source && checker.getSymbolAtLocation(source);
  if (module === undefined) throw new Error(`api/${entry}.ts is not a module`);
  return checker.getExportsOfModule(module).map((exported) => {
    const symbol = exported.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(exported) : exported;
    return {
      name: exported.name,
      isValue: (symbol.flags & ts.SymbolFlags.Value) !== 0,
      isCallable: (symbol.flags & (ts.SymbolFlags.Function | ts.SymbolFlags.Class)) !== 0,
      documentation: ts.displayPartsToString(symbol.getDocumentationComment(checker)),
      hasExample: symbol.getJsDocTags(checker).some(({ name }) => name === "example"),
    };
  });
}

beforeAll(() => {
  const { config } = ts.readConfigFile(`${ROOT}tsconfig.json`, ts.sys.readFile);
  const { options } = ts.parseJsonConfigFileContent({ ...config, include: [] }, ts.sys, ROOT);
  program = ts.createProgram(
    Object.keys(VALUES).map((entry) => `${ROOT}api/${entry}.ts`),
    options,
  );
});

describe.each(Object.keys(VALUES))("the entry api/%s.ts", (entry) => {
  test("exports exactly the listed values", () => {
    const values = exportsOf(entry).filter(({ isValue }) => isValue);
    expect(values.map(({ name }) => name).sort()).toEqual([...(VALUES[entry] ?? [])].sort());
  });

  test("documents every export", () => {
    const exported = exportsOf(entry);
    expect(exported.length).toBeGreaterThan(0);
    expect(exported.filter(({ documentation }) => documentation === "").map(({ name }) => name)).toEqual([]);
  });

  test("shows an example of each function and class, except errors", () => {
    const callable = exportsOf(entry).filter(({ isCallable, name }) => isCallable && !ERRORS.includes(name));
    expect(callable.length).toBeGreaterThan(0);
    expect(callable.filter(({ hasExample }) => !hasExample).map(({ name }) => name)).toEqual([]);
  });
});

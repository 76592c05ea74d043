import { ErrorList } from "#sdk/submission/error-list.ts";
import { readNativeFormat } from "#sdk/submission/native-format.ts";
import { parseJson } from "#sdk/submission/parse-json.ts";
import { readWfFormat } from "#sdk/submission/wfformat.ts";
import type { Workflow } from "#sdk/submission/workflow.ts";

/** The result of `parseWorkflow`: a valid workflow, or every error in it. */
export type ParsedWorkflow =
  /** `warnings`: one line each, like errors. Usually empty. */
  | { readonly ok: true; readonly value: Workflow; readonly warnings: string[] }
  /** One line per error: source, position, what is wrong and what to do. Never empty. */
  | { readonly ok: false; readonly errors: string[] };

/**
 * Parses and validates a workflow file. The format is detected from the top-level properties: Sluice's own JSON or
 * WfFormat 1.0 to 1.6 (docs/workflows.md describes both). All errors are returned together.
 *
 * @param text The content of the file.
 * @param source Names the workflow in the errors, usually the file name.
 *
 * @example
 * const parsed = parseWorkflow('{"name":"two","tasks":[{"id":"a"},{"id":"b","dependsOn":["a"]}]}', "two.json");
 * if (!parsed.ok) throw new Error(parsed.errors.join("\n"));
 * parsed.value.edges; // [{ from: "a", to: "b", dataPassing: false }]
 */
export function parseWorkflow(text: string, source: string): ParsedWorkflow {
  const errors = new ErrorList(source);
  const warnings = new ErrorList(source);
  const value = readWorkflow(text, errors, warnings);
  return value === undefined
    ? { ok: false, errors: errors.list() }
    : { ok: true, value, warnings: warnings.list() };
}

function readWorkflow(text: string, errors: ErrorList, warnings: ErrorList): Workflow | undefined {
  const json = parseJson(text);
  if (!json.ok) {
    errors.add(json.position, json.message);
    return undefined;
  }
  const { value } = json;
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    if ("workflow" in value || "schemaVersion" in value) return readWfFormat(value, errors, warnings);
    if ("tasks" in value) return readNativeFormat(value, errors);
  }
  errors.add(
    "",
    'unknown format: expected a Sluice workflow (an object with "name" and "tasks") or a WfFormat file (an ' +
      'object with "schemaVersion" and "workflow")',
  );
  return undefined;
}

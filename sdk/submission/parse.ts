import { ErrorList } from "#sdk/submission/error-list.ts";
import { readNativeFormat } from "#sdk/submission/native-format.ts";
import { parseJson } from "#sdk/submission/parse-json.ts";
import { readWfFormat } from "#sdk/submission/wfformat.ts";
import type { Workflow } from "#sdk/submission/workflow.ts";

export type ParsedWorkflow =
  | { readonly ok: true; readonly value: Workflow }
  /** One sentence each: the source, the place in it, what is wrong and what to do. Never empty. */
  | { readonly ok: false; readonly errors: string[] };

/**
 * Reads a workflow specification, our own JSON (see `readNativeFormat`) or WfFormat 1.5 (see `readWfFormat`),
 * told apart by their top-level properties. `source` names the text in the errors, e.g. a file name.
 */
export function parseWorkflow(text: string, source: string): ParsedWorkflow {
  const errors = new ErrorList(source);
  const workflow = read(text, errors);
  return workflow === undefined ? { ok: false, errors: errors.list() } : { ok: true, value: workflow };
}

function read(text: string, errors: ErrorList): Workflow | undefined {
  const json = parseJson(text);
  if (!json.ok) {
    errors.add(json.place, json.message);
    return undefined;
  }
  const { value } = json;
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    if ("workflow" in value || "schemaVersion" in value) return readWfFormat(value, errors);
    if ("tasks" in value) return readNativeFormat(value, errors);
  }
  errors.add(
    "",
    'this is neither a Sluice workflow (an object with "name" and "tasks") nor a WfFormat 1.5 file (an ' +
      'object with "schemaVersion" and "workflow")',
  );
  return undefined;
}

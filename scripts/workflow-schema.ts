/** `npm run schema`: writes the JSON Schema of Sluice's workflow files to schema/workflow.json. */

import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import * as z from "zod/mini";
import { nativeFormat } from "#sdk/submission/native-format.ts";

const FILE = fileURLToPath(new URL("../schema/workflow.json", import.meta.url));

/** The schema, in draft 2020-12. The parser reads files with the same definitions, and also checks the graph. */
export function workflowSchema(): string {
  const { $schema, ...schema } = z.toJSONSchema(nativeFormat, { io: "input" });
  const titled = {
    $schema,
    title: "Sluice workflow",
    description: "A directed acyclic graph of tasks. docs/workflows.md explains every property.",
    ...schema,
  };
  return `${JSON.stringify(titled, null, 2)}\n`;
}

if (import.meta.main) writeFileSync(FILE, workflowSchema());

import { Option } from "commander";
import { writeCommand } from "#cli/kit/write-command.ts";
import { SELECTION_ARGUMENTS, selectionInput, selectionOptions } from "#cli/selection.ts";
import { complete } from "#operate/write/end.ts";

export const completeCommand = writeCommand({
  name: "complete",
  summary: "End executions with success, in place of their workers. Their children run.",
  operation: complete,
  arguments: SELECTION_ARGUMENTS,
  options: [
    ...selectionOptions("waiting"),
    new Option("--result <text>", "the result to store: JSON, as tasks return it"),
    new Option("--force", "also end executions that a worker runs, and take away its lease"),
  ],
  examples: [
    'complete "{fp:42}:0f8c5f6e-3a51-4c29-9d3c-54a6b0f2a1c7" --result \'{"approved_by":"ada"}\'',
    "complete --flow 1e317679-4750-4433-9727-c2f6f002767b --task approve --dry-run",
  ],
  input: (args, options) => ({
    ...selectionInput(args, options),
    force: options.force === true,
    result: options.result ?? "",
  }),
});

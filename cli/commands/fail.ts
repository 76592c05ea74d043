import { Option } from "commander";
import { writeCommand } from "#cli/kit/write-command.ts";
import { SELECTION_ARGUMENTS, selectionInput, selectionOptions } from "#cli/selection.ts";
import { fail } from "#operate/write/end.ts";

export const failCommand = writeCommand({
  name: "fail",
  summary:
    "End executions with failure, without retries. Their descendants are skipped. --reason is the failure's reason.",
  operation: fail,
  arguments: SELECTION_ARGUMENTS,
  options: [
    ...selectionOptions("waiting"),
    new Option("--force", "also end executions that a worker runs, and take away its lease"),
  ],
  examples: [
    'fail "{fp:42}:0f8c5f6e-3a51-4c29-9d3c-54a6b0f2a1c7" --reason "the supplier is closed"',
    "fail --lane imports --older-than 2d --dry-run",
  ],
  input: (args, options) => ({ ...selectionInput(args, options), force: options.force === true }),
});

import { writeCommand } from "#cli/kit/write-command.ts";
import { SELECTION_ARGUMENTS, selectionInput, selectionOptions } from "#cli/selection.ts";
import { publish } from "#operate/write/publish.ts";

export const publishCommand = writeCommand({
  name: "publish",
  summary:
    "Send the completions of executions again that have ended. It changes nothing if they were processed.",
  operation: publish,
  arguments: SELECTION_ARGUMENTS,
  options: selectionOptions("all that have ended"),
  examples: [
    'publish "{fp:42}:0f8c5f6e-3a51-4c29-9d3c-54a6b0f2a1c7"',
    "publish --flow 1e317679-4750-4433-9727-c2f6f002767b --state failed",
  ],
  input: (args, options) => selectionInput(args, options),
});

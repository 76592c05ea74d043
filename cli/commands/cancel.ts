import { Option } from "commander";
import { writeCommand } from "#cli/kit/write-command.ts";
import { SELECTION_ARGUMENTS, selectionInput, selectionOptions } from "#cli/selection.ts";
import { cancel } from "#operate/write/cancel.ts";

export const cancelCommand = writeCommand({
  name: "cancel",
  summary: "Cancel executions, or a whole flow. The descendants of a cancelled execution are skipped.",
  operation: cancel,
  arguments: SELECTION_ARGUMENTS,
  options: [
    ...selectionOptions("all that have not ended"),
    new Option(
      "--policy <policy>",
      "of a whole flow: cancel its members, or only close it (default: cancel_all)",
    ).choices(["cancel_all", "cancel_pending", "flow_only"]),
  ],
  examples: [
    'cancel --flow 1e317679-4750-4433-9727-c2f6f002767b --reason "superseded"',
    "cancel --lane imports --state waiting delayed --older-than 2d --dry-run",
  ],
  input: (args, options) => ({ ...selectionInput(args, options), policy: options.policy }),
});

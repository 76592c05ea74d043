import { Option } from "commander";
import { writeCommand } from "#cli/kit/write-command.ts";
import { SELECTION_ARGUMENTS, selectionInput, selectionOptions } from "#cli/selection.ts";
import { release } from "#operate/write/release.ts";

export const releaseCommand = writeCommand({
  name: "release",
  summary: "Release the leases of lost workers, so that other workers take the executions over at once.",
  operation: release,
  arguments: SELECTION_ARGUMENTS,
  options: [
    ...selectionOptions("active"),
    new Option("--force", "also take leases away whose time is not over"),
  ],
  examples: ['release "{fp:42}:0f8c5f6e-3a51-4c29-9d3c-54a6b0f2a1c7"', "release --lane imports --dry-run"],
  input: (args, options) => ({ ...selectionInput(args, options), force: options.force === true }),
});

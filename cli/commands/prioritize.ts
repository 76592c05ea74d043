import { Option } from "commander";
import { integer } from "#cli/kit/arguments.ts";
import { writeCommand } from "#cli/kit/write-command.ts";
import { SELECTION_ARGUMENTS, selectionInput, selectionOptions } from "#cli/selection.ts";
import { prioritize } from "#operate/write/prioritize.ts";

export const prioritizeCommand = writeCommand({
  name: "prioritize",
  summary:
    "Change the priority of waiting executions, for workers that poll. A ready queue has no priorities.",
  operation: prioritize,
  arguments: SELECTION_ARGUMENTS,
  options: [
    ...selectionOptions("waiting"),
    new Option("--priority <n>", "0 to 9000: higher ones are claimed first")
      .argParser(integer)
      .makeOptionMandatory(),
  ],
  examples: [
    'prioritize "{fp:42}:0f8c5f6e-3a51-4c29-9d3c-54a6b0f2a1c7" --priority 9000',
    "prioritize --workflow nightly --lane imports --priority 100 --dry-run",
  ],
  input: (args, options) => ({ ...selectionInput(args, options), priority: options.priority }),
});

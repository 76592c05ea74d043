import { Option } from "commander";
import { writeCommand } from "#cli/kit/write-command.ts";
import { SELECTION_ARGUMENTS, selectionInput, selectionOptions } from "#cli/selection.ts";
import { replay } from "#operate/write/replay.ts";

export const replayCommand = writeCommand({
  name: "replay",
  summary: "Run executions again that have ended. With --descendants, also what was skipped because of them.",
  operation: replay,
  arguments: SELECTION_ARGUMENTS,
  options: [
    ...selectionOptions("failed, expired"),
    new Option("--descendants", "also replay the descendants that were skipped because of the executions"),
  ],
  examples: [
    'replay "{fp:42}:0f8c5f6e-3a51-4c29-9d3c-54a6b0f2a1c7" --descendants --reason "the disk has space again"',
    'replay --reason-contains "disk full" --since 2h --descendants --dry-run',
  ],
  input: (args, options) => ({
    ...selectionInput(args, options),
    descendants: options.descendants === true,
  }),
});

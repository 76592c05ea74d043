import { Option } from "commander";
import { integer } from "#cli/kit/arguments.ts";
import { time } from "#cli/kit/format.ts";
import { readCommand } from "#cli/kit/read-command.ts";
import { table } from "#cli/kit/table.ts";
import { audit } from "#operate/read/audit.ts";

export const auditCommand = readCommand({
  name: "audit",
  summary: "Show who changed what, and why: the newest change first.",
  operation: audit,
  options: [
    new Option("--limit <n>", "entries to show, 1 to 1000").default(100).argParser(integer),
    new Option("--cursor <cursor>", "continue after the last answer"),
  ],
  examples: ["audit", "audit --limit 10 --json"],
  input: (_, { limit, cursor }) => ({ limit, ...(cursor === undefined ? {} : { cursor }) }),
  render: ({ entries, next }, style) =>
    entries.length === 0
      ? ["no change is recorded"]
      : [
          ...table([
            ["time", "operation", "who", "target", "reason"].map(style.dim),
            ...entries.map(({ recorded_at, operation, actor, target, reason }) => [
              time(recorded_at),
              operation,
              actor,
              target,
              reason,
            ]),
          ]),
          ...(next === undefined ? [] : [style.dim(`more: sluice audit --cursor ${next}`)]),
        ],
});

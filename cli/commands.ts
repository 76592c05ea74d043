/** Every command, in the order of the reference. */

import { auditCommand } from "#cli/commands/audit.ts";
import { flowsCommand } from "#cli/commands/flows.ts";
import { installValkeyCommand } from "#cli/commands/install-valkey.ts";
import { lanesCommand, pauseLanesCommand, resumeLanesCommand } from "#cli/commands/lanes.ts";
import type { CliCommand } from "#cli/kit/command.ts";
import { redriveCommand } from "#cli/redrive.ts";

export const COMMANDS: readonly CliCommand[] = [
  flowsCommand,
  redriveCommand,
  lanesCommand,
  pauseLanesCommand,
  resumeLanesCommand,
  auditCommand,
  installValkeyCommand,
];

/** Every command, in the order of the reference. */

import { auditCommand } from "#cli/commands/audit.ts";
import { cancelCommand } from "#cli/commands/cancel.ts";
import { completeCommand } from "#cli/commands/complete.ts";
import { purgeDeadLettersCommand, replayDeadLettersCommand } from "#cli/commands/dead-letter-changes.ts";
import { listDeadLettersCommand, showDeadLetterCommand } from "#cli/commands/dead-letters.ts";
import { devCommand } from "#cli/commands/dev.ts";
import { doctorCommand } from "#cli/commands/doctor.ts";
import { explainCommand } from "#cli/commands/explain.ts";
import { failCommand } from "#cli/commands/fail.ts";
import { flowsCommand } from "#cli/commands/flows.ts";
import { graphCommand } from "#cli/commands/graph.ts";
import { installValkeyCommand } from "#cli/commands/install-valkey.ts";
import { lanesCommand, pauseLanesCommand, resumeLanesCommand } from "#cli/commands/lanes.ts";
import { prioritizeCommand } from "#cli/commands/prioritize.ts";
import { publishCommand } from "#cli/commands/publish.ts";
import { reconcileCommand } from "#cli/commands/reconcile.ts";
import { releaseCommand } from "#cli/commands/release.ts";
import { replayCommand } from "#cli/commands/replay.ts";
import { statusCommand } from "#cli/commands/status.ts";
import { submitCommand } from "#cli/commands/submit.ts";
import type { CliCommand } from "#cli/kit/command.ts";

export const COMMANDS: readonly CliCommand[] = [
  devCommand,
  submitCommand,
  flowsCommand,
  statusCommand,
  explainCommand,
  graphCommand,
  lanesCommand,
  pauseLanesCommand,
  resumeLanesCommand,
  listDeadLettersCommand,
  showDeadLetterCommand,
  replayDeadLettersCommand,
  purgeDeadLettersCommand,
  completeCommand,
  failCommand,
  cancelCommand,
  replayCommand,
  releaseCommand,
  publishCommand,
  prioritizeCommand,
  reconcileCommand,
  doctorCommand,
  auditCommand,
  installValkeyCommand,
];

#!/usr/bin/env node
/**
 * The command line for operators: `npx sluice`, or `npm run sluice --` in a checkout.
 *
 * Exit status: 0 when done, 1 if the command found something wrong or failed, 2 if the arguments or the environment are
 * invalid.
 */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { COMMANDS } from "#cli/commands.ts";
import { runCli } from "#cli/kit/program.ts";
import { processTerminal } from "#cli/kit/terminal.ts";
import { PACKAGE_ROOT } from "#cli/package-root.ts";
import { parseJsonObject } from "#shared/contract/message.ts";
import { fieldText } from "#shared/contract/record.ts";
import { listenForStop } from "#shared/runtime/stop-signals.ts";

process.exitCode = await runCli(COMMANDS, process.argv.slice(2), {
  terminal: processTerminal(),
  environment: process.env,
  stop: listenForStop(),
  version: fieldText(parseJsonObject(readFileSync(join(PACKAGE_ROOT, "package.json"), "utf8"))?.version),
});

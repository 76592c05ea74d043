#!/usr/bin/env node
/**
 * The command line for operators: `npx sluice`, or `npm run sluice --` in a checkout.
 *
 * Exit status: 0 when done, 1 if the command found something wrong or failed, 2 if the arguments or the environment are
 * invalid.
 */

import { COMMANDS } from "#cli/commands.ts";
import { findDevFile } from "#cli/dev-file.ts";
import { runCli } from "#cli/kit/program.ts";
import { processTerminal } from "#cli/kit/terminal.ts";
import { BROKEN_PIPE, listenForStop } from "#shared/runtime/stop-signals.ts";
import { VERSION } from "#shared/runtime/version.ts";

const stop = listenForStop();
// The output may turn out to be closed or full only after the command has ended.
process.on("exit", (code) => {
  if (code === 0 && stop.exitCode === BROKEN_PIPE) process.exitCode = BROKEN_PIPE;
});

process.exitCode = await runCli(COMMANDS, process.argv.slice(2), {
  terminal: processTerminal(),
  environment: process.env,
  stop,
  defaultEnvFile: findDevFile(),
  adopt: (variables) => {
    for (const [name, value] of Object.entries(variables)) {
      if (name.startsWith("AWS_")) process.env[name] ??= value;
    }
  },
  version: VERSION,
});

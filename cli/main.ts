#!/usr/bin/env node
/**
 * The command line for operators: `npx sluice`, or `npm run sluice --` in a checkout.
 *
 * Exit status: 0 on success, 1 if the command failed or was not completed, 2 if the arguments or the environment are
 * invalid.
 */

import { Command, CommanderError } from "commander";
import { installValkeyCommand } from "#cli/install-valkey.ts";
import { redriveCommand } from "#cli/redrive.ts";
import { ConfigurationError, describeError, InvalidRequestError, messageOf } from "#shared/errors.ts";
import { listenForStop } from "#shared/runtime/stop-signals.ts";

async function main(): Promise<number> {
  const stop = listenForStop();
  let exitCode = 0;
  const program = new Command("sluice")
    .description("Sluice's command line for operators")
    .exitOverride()
    .addCommand(
      redriveCommand(stop.signal, (code) => {
        exitCode = code;
      }),
    )
    .addCommand(installValkeyCommand());
  try {
    await program.parseAsync(process.argv);
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    const isUsage = error instanceof ConfigurationError || error instanceof InvalidRequestError;
    process.stderr.write(
      `sluice: ${error instanceof Error && !isUsage ? describeError(error) : messageOf(error)}\n`,
    );
    return isUsage ? 2 : 1;
  }
}

process.exitCode = await main();

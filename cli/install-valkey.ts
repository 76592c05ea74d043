import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Command } from "commander";
import { withLock } from "#scripts/setup/lock.mjs";
import { thisMachine } from "#scripts/setup/machine.mjs";
import { NoValkeyError, provideValkey } from "#scripts/setup/valkey.mjs";
import { ConfigurationError } from "#shared/errors.ts";

/** The folder above the sources, and above the bundle in the npm package. */
const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** The command `sluice install-valkey`: provides the server that `sluice/testing` starts. */
export function installValkeyCommand(): Command {
  return new Command("install-valkey")
    .description(
      "Find a valkey-server for sluice/testing, or install one into the folder of this package, and print its path.",
    )
    .allowExcessArguments(false)
    .exitOverride()
    .action(async () => {
      const say = (line: string): void => {
        process.stderr.write(`sluice: ${line}\n`);
      };
      const probes = thisMachine(ROOT, say);
      const onWait = (owner: unknown): void => say(`waiting for another set-up (process ${owner})`);
      try {
        const { path } = await withLock(
          join(probes.folder, "setup.lock"),
          () => provideValkey(probes),
          onWait,
        );
        process.stdout.write(`${path}\n`);
      } catch (error) {
        throw error instanceof NoValkeyError ? new ConfigurationError([error.message]) : error;
      }
    });
}

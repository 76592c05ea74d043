import { join } from "node:path";
import type { CliCommand } from "#cli/kit/command.ts";
import { PACKAGE_ROOT } from "#cli/package-root.ts";
import { withLock } from "#scripts/setup/lock.mjs";
import { thisMachine } from "#scripts/setup/machine.mjs";
import { NoValkeyError, provideValkey } from "#scripts/setup/valkey.mjs";
import { ConfigurationError } from "#shared/errors.ts";

/** Provides the server that `sluice/testing` and `sluice dev` start. */
export const installValkeyCommand: CliCommand = {
  name: "install-valkey",
  summary: "Find a valkey-server, or install one into the folder of this package, and print its path.",
  examples: ["install-valkey"],
  exitOne: "the installation failed",
  access: "local",
  async execute({ terminal }) {
    const say = (line: string): void => terminal.note(`sluice: ${line}`);
    const probes = thisMachine(PACKAGE_ROOT, say);
    const onWait = (owner: unknown): void => say(`waiting for another set-up (process ${owner})`);
    try {
      const { path } = await withLock(join(probes.folder, "setup.lock"), () => provideValkey(probes), onWait);
      terminal.print(`${path}\n`);
      return 0;
    } catch (error) {
      throw error instanceof NoValkeyError ? new ConfigurationError([error.message]) : error;
    }
  },
};

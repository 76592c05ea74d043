import { join } from "node:path";
import { InvalidArgumentError, Option } from "commander";
import { DEV_FILE, writeDevFile } from "#cli/dev-file.ts";
import type { CliCommand, CommonOptions } from "#cli/kit/command.ts";
import { actorName } from "#cli/kit/runner.ts";
import { PACKAGE_ROOT } from "#cli/package-root.ts";
import { type LaneId, parseLaneId } from "#shared/contract/ids.ts";

const DEFAULT_PORT = 7333;
const DEFAULT_LANE = "default";
const ERRORS_SHOWN = 10;

interface DevCommandOptions extends CommonOptions {
  readonly port: number;
  readonly lane?: readonly LaneId[];
}

/** `sluice dev`: everything that a developer needs on one machine, with a page to look at it. */
export const devCommand: CliCommand = {
  name: "dev",
  summary:
    "Run Valkey, the queues and the functions on this machine, with a page that shows and repairs workflows.",
  options: [
    new Option("--port <port>", "port of the page on 127.0.0.1; 0 for any free one")
      .default(DEFAULT_PORT)
      .argParser(port),
    new Option(
      "--lane <lane>",
      `a lane with a ready queue for workers; may be repeated (default: ${DEFAULT_LANE})`,
    ).argParser((text: string, previous: readonly LaneId[] | undefined) => [...(previous ?? []), lane(text)]),
  ],
  examples: ["dev", "dev --port 8080 --lane default --lane gpu"],
  exitOne: "the stack failed",
  access: "local",
  async execute({ options, terminal, signal }) {
    const { port: chosen, lane: lanes = [lane(DEFAULT_LANE)] } = options as DevCommandOptions;
    // Other commands do not need the local stack, which takes time to load.
    const { runDev } = await import("#local/page/dev.ts");
    let errors = 0;
    using parts = new DisposableStack();
    await runDev({
      port: chosen,
      lanes,
      folder: join(PACKAGE_ROOT, "dist/page"),
      actor: actorName(),
      signal,
      onError: (error) => {
        errors += 1;
        if (errors <= ERRORS_SHOWN) terminal.note(`sluice: ${error}`);
      },
      onStarted: (url, environment) => {
        const { style } = terminal;
        parts.use(writeDevFile(environment));
        const variables = Object.entries(environment).map(([name, value]) => `  ${name}=${value}`);
        const lines = [
          `${style.bold("Sluice runs on this machine.")} Open ${style.cyan(url)}`,
          "",
          "Other commands use it if they are started in this folder, in another terminal:",
          "  sluice submit FILE --yes",
          "",
          `Workers reach it with these variables, which are also in ${DEV_FILE}:`,
          ...variables,
          "",
          "All data is gone when it stops. Press Ctrl-C to stop.",
        ];
        terminal.print(lines.map((line) => `${line}\n`).join(""));
      },
    });
    return 0;
  },
};

function port(text: string): number {
  const number = Number(text);
  if (/^\d{1,5}$/.test(text) && number <= 65_535) return number;
  throw new InvalidArgumentError("Expected a port, 0 to 65535.");
}

function lane(text: string): LaneId {
  const parsed = parseLaneId(text);
  if (parsed.ok) return parsed.value;
  throw new InvalidArgumentError(parsed.error.message);
}

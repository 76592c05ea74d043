/** A simulated machine for the setup: its files, and the results of its commands. */

import type { Probes, Ran } from "#scripts/setup/valkey.mjs";

export const OK: Ran = { status: 0, stdout: "", stderr: "" };
export const ABSENT: Ran = { status: null, stdout: "", stderr: "ENOENT" };
export const VALKEY_8: Ran = {
  status: 0,
  stdout: "Valkey server v=8.0.1 sha=00000000:0 bits=64\n",
  stderr: "",
};
export const CHROMIUM_156: Ran = { status: 0, stdout: "Chromium 156.0.8078.108 \n", stderr: "" };
export const FOLDER = "/project/.sluice";

type Command = Ran | ((args: readonly string[], machine: Machine) => Ran);

export class Machine implements Probes {
  readonly platform: string;
  readonly folder = FOLDER;
  readonly environment: Record<string, string>;
  readonly files: Map<string, string>;
  readonly commands: Map<string, Command>;
  readonly messages: string[] = [];
  readonly ran: string[] = [];

  constructor(setting: {
    platform?: string;
    environment?: Record<string, string>;
    files?: Record<string, string>;
    commands?: Record<string, Command>;
  }) {
    this.platform = setting.platform ?? "linux";
    this.environment = { PATH: "/usr/local/bin:/usr/bin", ...setting.environment };
    this.files = new Map(Object.entries(setting.files ?? {}));
    this.commands = new Map(Object.entries(setting.commands ?? {}));
  }

  run = (command: string, args: readonly string[]): Ran => {
    this.ran.push([command, ...args].join(" "));
    const answer = this.commands.get(command) ?? ABSENT;
    return typeof answer === "function" ? answer(args, this) : answer;
  };
  readFile = (path: string): string | undefined => this.files.get(path);
  exists = (path: string): boolean => this.files.has(path);
  list = (folder: string): string[] =>
    [...this.files.keys()]
      .filter((path) => path.startsWith(`${folder}/`) && !path.slice(folder.length + 1).includes("/"))
      .map((path) => path.slice(folder.length + 1))
      .sort();
  writeFile = (path: string, text: string): void => {
    this.files.set(path, text);
  };
  move = (from: string, to: string): void => {
    for (const [path, text] of [...this.files]) {
      if (!path.startsWith(`${from}/`)) continue;
      this.files.delete(path);
      this.files.set(to + path.slice(from.length), text);
    }
  };
  remove = (path: string): void => {
    for (const known of [...this.files.keys()]) {
      if (known === path || known.startsWith(`${path}/`)) this.files.delete(known);
    }
  };
  say = (line: string): void => {
    this.messages.push(line);
  };
}

/** The commands of a machine with apt. Only the given suites have the packages. */
export function aptCommands(suitesWithPackage: readonly string[]): Record<string, Command> {
  return {
    "apt-get": (args, machine) =>
      args.includes("install") ? install(args.at(-1) ?? "", suitesWithPackage, machine) : OK,
    "dpkg-deb": OK,
    [`${FOLDER}/valkey/valkey-server`]: VALKEY_8,
    [`${FOLDER}/chromium/chromium`]: CHROMIUM_156,
  };
}

function install(name: string, suitesWithPackage: readonly string[], machine: Machine): Ran {
  const sources = machine
    .list(`${FOLDER}/apt/sources`)
    .map((name) => machine.readFile(`${FOLDER}/apt/sources/${name}`) ?? "");
  const isThere = suitesWithPackage.some((suite) =>
    sources.some((text) => text.split(/\s+/).includes(suite)),
  );
  if (!isThere) return { status: 100, stdout: "", stderr: `E: Unable to locate package ${name}\n` };
  for (const file of [`${name}_8.0.1_amd64.deb`, "liblzf1_3.6_amd64.deb", "libc6_2.40_amd64.deb"]) {
    machine.writeFile(`${FOLDER}/apt/cache/archives/${file}`, "");
  }
  return OK;
}

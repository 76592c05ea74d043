import { describe, expect, test } from "vitest";
import { findValkey, NoValkeyError } from "#scripts/setup/valkey.mjs";
import { aptCommands, FOLDER, Machine, OK, VALKEY_8 } from "#test/setup/machine.ts";

const UNPACKED = `${FOLDER}/valkey/valkey-server`;
const DEBIAN_12 = {
  "/etc/os-release": 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n',
  "/etc/apt/sources.list.d/debian.sources":
    "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n" +
    "Signed-By: /usr/share/keyrings/debian.gpg\n\nTypes: deb\nURIs: http://mirror.example/security\n" +
    "Suites: bookworm-security\nComponents: main\n",
};
const DEBIAN_13 = {
  "/etc/os-release": "ID=debian\nVERSION_CODENAME=trixie\n",
  "/etc/apt/sources.list": "deb http://mirror.example/debian trixie main\n",
};
const UBUNTU_2404 = {
  "/etc/os-release": "ID=ubuntu\nVERSION_CODENAME=noble\nUBUNTU_CODENAME=noble\n",
  "/etc/apt/sources.list.d/ubuntu.sources":
    "Types: deb\nURIs: http://mirror.example/ubuntu/\nSuites: noble noble-updates noble-backports\nComponents: main universe\n",
};
const ON_PATH = { "/usr/bin/valkey-server": "" };

function reasonOf(machine: Machine): string {
  try {
    return `found ${findValkey(machine).path}`;
  } catch (error) {
    expect(error).toBeInstanceOf(NoValkeyError);
    return error instanceof Error ? error.message : "";
  }
}

describe("the order of the search", () => {
  const everywhere = {
    environment: { VALKEY_SERVER: "/opt/valkey-server" },
    files: {
      [`${FOLDER}/valkey-server`]: "/recorded/valkey-server\n",
      "/recorded/valkey-server": "",
      ...ON_PATH,
      ...DEBIAN_13,
    },
    commands: {
      "/opt/valkey-server": VALKEY_8,
      "/recorded/valkey-server": VALKEY_8,
      "/usr/bin/valkey-server": VALKEY_8,
      ...aptCommands(["trixie"]),
      docker: OK,
      [`${FOLDER}/valkey-container`]: VALKEY_8,
    },
  };

  test("tries the next source if one fails", () => {
    const machine = new Machine(everywhere);
    const found: string[] = [];
    const fallAway = [
      () => delete machine.environment.VALKEY_SERVER,
      () => machine.files.delete("/recorded/valkey-server"),
      () => machine.files.delete("/usr/bin/valkey-server"),
      () => {
        machine.commands.delete("apt-get");
        machine.remove(`${FOLDER}/valkey`);
      },
    ];
    for (const next of [...fallAway, undefined]) {
      found.push(findValkey(machine).path);
      next?.();
    }
    expect(found).toEqual([
      "/opt/valkey-server",
      "/recorded/valkey-server",
      "/usr/bin/valkey-server",
      UNPACKED,
      `${FOLDER}/valkey-container`,
    ]);
  });

  test("rejects a server that is too old or does not run, and another program", () => {
    for (const stdout of ["Valkey server v=7.0.4 sha=0", "Redis server v=7.2.4 sha=0", "something else"]) {
      const machine = new Machine({
        files: { ...ON_PATH, "/usr/local/bin/valkey-server": "", ...DEBIAN_13 },
        commands: { ...aptCommands(["trixie"]), "/usr/local/bin/valkey-server": { ...OK, stdout } },
      });
      expect(findValkey(machine).path).toBe(UNPACKED);
    }
  });

  test("finds the unpacked server after the project was moved", () => {
    const machine = new Machine({
      files: { [`${FOLDER}/valkey-server`]: "/old/place/.sluice/valkey/valkey-server\n", [UNPACKED]: "" },
      commands: { [UNPACKED]: VALKEY_8 },
    });
    expect(findValkey(machine).path).toBe(UNPACKED);
  });

  test("never replaces an explicit VALKEY_SERVER", () => {
    const machine = new Machine({
      environment: { VALKEY_SERVER: "/wrong" },
      files: ON_PATH,
      commands: { "/usr/bin/valkey-server": VALKEY_8 },
    });
    expect(reasonOf(machine)).toBe("VALKEY_SERVER names /wrong, which cannot be started");
  });
});

describe("machines", () => {
  test.each([
    ["Debian 13, a one-line source", DEBIAN_13, "trixie"],
    ["Ubuntu 24.04", UBUNTU_2404, "noble"],
  ])("%s: the package comes from the machine's own sources, and no suite is added", (_, files, suite) => {
    const machine = new Machine({ files, commands: aptCommands([suite]) });
    expect(findValkey(machine)).toEqual({ path: UNPACKED, source: "the distribution's package" });
    expect(machine.files.get(UNPACKED)).toContain("LD_LIBRARY_PATH");
  });

  test("Debian 12: the package comes from the backports, from the machine's mirror", () => {
    const machine = new Machine({ files: DEBIAN_12, commands: aptCommands(["bookworm-backports"]) });
    const added: string[] = [];
    const { writeFile } = machine;
    machine.writeFile = (path, text) => {
      if (path.includes("zz-sluice")) added.push(text);
      writeFile(path, text);
    };
    expect(findValkey(machine)).toEqual({ path: UNPACKED, source: "the distribution's backports" });
    expect(added).toEqual([
      "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm-backports\nComponents: main\n" +
        "Signed-By: /usr/share/keyrings/debian.gpg\n",
    ]);
  });

  test("apt uses a separate state, which is removed afterwards, and the C library is not unpacked", () => {
    const machine = new Machine({ files: DEBIAN_12, commands: aptCommands(["bookworm-backports"]) });
    const before = new Set(machine.files.keys());
    findValkey(machine);
    const added = [...machine.files.keys()].filter((path) => !before.has(path));
    expect(added).toEqual([UNPACKED]);
    const calls = machine.ran.filter((line) => line.startsWith("apt-get -qq"));
    expect(calls.length).toBeGreaterThan(0);
    for (const call of calls) {
      expect(call).toContain(`-o Dir::State=${FOLDER}/apt/state `);
      expect(call).toContain(`-o Dir::Cache=${FOLDER}/apt/cache `);
      expect(call).toContain(`-o Dir::Etc::sourceparts=${FOLDER}/apt/sources `);
    }
    const unpacked = machine.ran.filter((line) => line.startsWith("dpkg-deb -x"));
    expect(unpacked.join()).toContain("valkey-server_");
    expect(unpacked.join()).not.toContain("libc6_");
    expect(machine.ran.some((line) => /sudo|dpkg -i/.test(line))).toBe(false);
  });

  test("macOS: Homebrew installs Valkey, and apt is not used", () => {
    let isInstalled = false;
    const machine = new Machine({
      platform: "darwin",
      commands: {
        ...aptCommands(["trixie"]),
        brew: (args) => {
          if (args[0] === "install") isInstalled = true;
          return { ...OK, stdout: "/opt/homebrew/opt/valkey\n" };
        },
        "/opt/homebrew/opt/valkey/bin/valkey-server": () => (isInstalled ? VALKEY_8 : { ...OK, status: 1 }),
      },
    });
    expect(findValkey(machine).source).toBe("Homebrew");
    expect(machine.ran).toContain("brew install valkey");
    expect(machine.ran.filter((line) => line.startsWith("apt-get"))).toEqual([]);
  });

  test("uses only a container engine that responds", () => {
    const machine = new Machine({
      commands: {
        docker: { status: 1, stdout: "", stderr: "Cannot connect" },
        podman: OK,
        [`${FOLDER}/valkey-container`]: VALKEY_8,
      },
    });
    expect(findValkey(machine).path).toBe(`${FOLDER}/valkey-container`);
    expect(machine.files.get(`${FOLDER}/valkey-container`)).toContain("exec podman run --rm");
    expect(machine.ran.filter((line) => line.startsWith("docker"))).toEqual(["docker info"]);
  });

  test("nothing available: one message with ways to install it and the attempts", () => {
    const machine = new Machine({
      files: DEBIAN_12,
      commands: { ...aptCommands([]), docker: { status: 1, stdout: "", stderr: "no daemon" } },
    });
    const reason = reasonOf(machine);
    for (const part of ["brew install valkey", "apt-get install valkey-server", "VALKEY_SERVER"]) {
      expect(reason).toContain(part);
    }
    expect(reason).toContain("the distribution's package: Unable to locate package valkey-server");
    expect(reason).toContain("a container engine: docker is installed but does not respond");
    expect([...machine.files.keys()].filter((path) => path.startsWith(FOLDER))).toEqual([]);
  });

  test("a release without a source entry: no guessed backports", () => {
    const machine = new Machine({
      files: { "/etc/os-release": "VERSION_CODENAME=bookworm\n", "/etc/apt/sources.list": "# nothing\n" },
      commands: aptCommands(["bookworm-backports"]),
    });
    expect(reasonOf(machine)).toContain("no package source of this machine has an entry for its release");
  });
});

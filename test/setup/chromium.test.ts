import { describe, expect, test } from "vitest";
import { findChromium, NoChromiumError, provideChromium } from "#scripts/setup/chromium.mjs";
import { ABSENT, aptCommands, CHROMIUM_156, FOLDER, Machine, OK } from "#test/setup/machine.ts";

const UNPACKED = `${FOLDER}/chromium/chromium`;
const DEBIAN_13 = {
  "/etc/os-release": "ID=debian\nVERSION_CODENAME=trixie\n",
  "/etc/apt/sources.list": "deb http://mirror.example/debian trixie main\n",
};
const ON_PATH = { "/usr/bin/google-chrome": "" };
const CHROME = { "/usr/bin/google-chrome": { ...OK, stdout: "Google Chrome 140.0.1.2 \n" } };

function errorOf(find: () => string): string {
  try {
    return `found ${find()}`;
  } catch (error) {
    expect(error).toBeInstanceOf(NoChromiumError);
    return error instanceof Error ? error.message : "";
  }
}

describe("the order of the search", () => {
  test("CHROMIUM, the one of an earlier setup, the path, the distribution's package", () => {
    const machine = new Machine({
      environment: { CHROMIUM: "/opt/chromium" },
      files: { [UNPACKED]: "", ...ON_PATH, ...DEBIAN_13 },
      commands: { "/opt/chromium": CHROMIUM_156, ...CHROME, ...aptCommands(["trixie"]) },
    });
    const found: string[] = [provideChromium(machine)];
    delete machine.environment.CHROMIUM;
    found.push(provideChromium(machine));
    machine.remove(UNPACKED);
    found.push(provideChromium(machine));
    machine.remove("/usr/bin/google-chrome");
    found.push(provideChromium(machine));
    expect(found).toEqual(["/opt/chromium", UNPACKED, "/usr/bin/google-chrome", UNPACKED]);
    expect(machine.files.get(UNPACKED)).toContain('exec "$here/usr/lib/chromium/chromium"');
    expect(machine.files.get(`${FOLDER}/chromium/fonts.conf`)).toContain("usr/share/fonts");
  });

  test("never replaces an explicit CHROMIUM", () => {
    const machine = new Machine({ environment: { CHROMIUM: "/wrong" }, files: ON_PATH, commands: CHROME });
    expect(errorOf(() => provideChromium(machine))).toBe("CHROMIUM names /wrong, which cannot be started");
  });

  test("Chrome of a Mac is found where it is installed", () => {
    const path = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome";
    const machine = new Machine({
      platform: "darwin",
      files: { [path]: "" },
      commands: { [path]: { ...OK, stdout: "Google Chrome 140.0.1.2 \n" } },
    });
    expect(findChromium(machine)).toBe(path);
  });
});

describe("a machine without Chromium", () => {
  test("findChromium installs nothing, and says what to do", () => {
    const machine = new Machine({ files: DEBIAN_13, commands: aptCommands(["trixie"]) });
    const error = errorOf(() => findChromium(machine));
    for (const advice of ["npm run setup -- --browser", "install Google Chrome", "set CHROMIUM"]) {
      expect(error).toContain(advice);
    }
    expect(machine.ran).toEqual([]);
  });

  test.each([
    ["too old", { ...OK, stdout: "Chromium 110.0.1.2\n" }],
    ["a script that asks for a snap", { status: 1, stdout: "", stderr: "requires the chromium snap" }],
    ["something else", { ...OK, stdout: "Firefox 140.0\n" }],
    ["a file that cannot be run", ABSENT],
  ])("one on the path that is %s is not used", (_, ran) => {
    const machine = new Machine({
      files: { "/usr/bin/chromium-browser": "", ...DEBIAN_13 },
      commands: { ...aptCommands(["trixie"]), "/usr/bin/chromium-browser": ran },
    });
    expect(provideChromium(machine)).toBe(UNPACKED);
  });

  test("provideChromium says why the download failed", () => {
    const machine = new Machine({ files: DEBIAN_13, commands: aptCommands([]) });
    expect(errorOf(() => provideChromium(machine))).toContain(
      "the distribution's package: Unable to locate package chromium",
    );
  });
});

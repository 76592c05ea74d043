import { describe, expect, test } from "vitest";
import { codenameOf, withSuite } from "#scripts/setup/sources.mjs";

function added(name: string, text: string): string | undefined {
  return withSuite([{ name, text }], "bookworm", "bookworm-backports")?.text;
}

describe("a source entry with another suite", () => {
  test.each([
    [
      "plain",
      "deb http://m.example/debian bookworm main",
      "deb http://m.example/debian bookworm-backports main\n",
    ],
    [
      "options and comments",
      "# deb http://x bookworm main\n deb [arch=amd64 signed-by=/k.gpg] http://m/d bookworm main contrib # mine",
      "deb [arch=amd64 signed-by=/k.gpg] http://m/d bookworm-backports main contrib\n",
    ],
    [
      "after others",
      "deb-src http://m/d bookworm main\ndeb http://s/s bookworm-security main\ndeb http://m/d stable main",
      "deb http://m/d bookworm-backports main\n",
    ],
  ])("one line, %s", (_, text, expected) => {
    expect(added("a.list", text)).toBe(expected);
  });

  test("deb822: the first enabled binary entry of the release", () => {
    const off = "Enabled: no\nTypes: deb\nURIs: http://off\nSuites: bookworm\nComponents: main\n";
    const source = "Types: deb-src\nURIs: http://src\nSuites: bookworm\nComponents: main\n";
    const security = "Types: deb\nURIs: http://sec\nSuites: bookworm-security\nComponents: main\n";
    const main =
      "# a comment\nTypes: deb deb-src\nURIs: http://m/d\nSuites: bookworm bookworm-updates\nComponents: main\n";
    expect(added("a.sources", [off, source, security, main].join("\n"))).toBe(
      "Types: deb\nURIs: http://m/d\nSuites: bookworm-backports\nComponents: main\n",
    );
  });

  test("undefined if no entry is for the release", () => {
    expect(added("a.list", "deb http://m/d bullseye main")).toBeUndefined();
    expect(
      added("a.sources", "Types: deb\nURIs: http://m/d\nSuites: sid\nComponents: main\n"),
    ).toBeUndefined();
  });
});

test("the codename of a derivative is that of its base release", () => {
  expect(codenameOf("VERSION_CODENAME=bookworm\n")).toBe("bookworm");
  expect(codenameOf("VERSION_CODENAME=virginia\nUBUNTU_CODENAME=jammy\n")).toBe("jammy");
  expect(codenameOf('VERSION_CODENAME="trixie"\n')).toBe("trixie");
  expect(codenameOf("ID=arch\n")).toBeUndefined();
});

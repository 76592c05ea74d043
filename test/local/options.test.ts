import { expect, test } from "vitest";
import { type ParsedOptions, parseOptions } from "#local/options.ts";

function parse(...args: string[]): { parsed: ParsedOptions; out: string; err: string } {
  let out = "";
  let err = "";
  const parsed = parseOptions(
    args,
    (text) => {
      out += text;
    },
    (text) => {
      err += text;
    },
  );
  return { parsed, out, err };
}

test("everything has a meaning when it is left out", () => {
  expect(parse().parsed).toEqual({
    kind: "run",
    options: { workflow: undefined, fail: undefined, json: false },
  });
});

test("--fail may be given several times", () => {
  expect(parse("--workflow", "a.json", "--fail", "x", "--fail=y", "--json").parsed).toEqual({
    kind: "run",
    options: { workflow: "a.json", fail: ["x", "y"], json: true },
  });
});

test("--help tells of every option", () => {
  const { parsed, out } = parse("--help");
  expect(parsed).toEqual({ kind: "done", exitCode: 0 });
  for (const option of ["--workflow", "--fail", "--json"]) expect(out).toContain(option);
});

test.each([
  [["--unknown"], "--unknown"],
  [["--workflow"], "--workflow"],
  [["stray.json"], "too many arguments"],
])("%j is refused", (args, reason) => {
  const { parsed, err } = parse(...args);
  expect(parsed).toEqual({ kind: "done", exitCode: 2 });
  expect(err).toContain(reason);
});

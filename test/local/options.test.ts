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

const DEFAULTS = {
  workflow: undefined,
  fail: undefined,
  json: false,
  sqs: "fauxqs",
  runtime: "own",
  dispatch: "inline",
};

test("the defaults", () => {
  expect(parse().parsed).toEqual({
    kind: "run",
    options: DEFAULTS,
  });
});

test("--fail may be repeated", () => {
  expect(parse("--workflow", "a.json", "--fail", "x", "--fail=y", "--json").parsed).toEqual({
    kind: "run",
    options: { ...DEFAULTS, workflow: "a.json", fail: ["x", "y"], json: true },
  });
});

test.each(["fauxqs", "local-aws-sqs", "localstack", "auto", "http://127.0.0.1:4566"])("--sqs %s", (sqs) => {
  expect(parse("--sqs", "auto", "--sqs", sqs, "--runtime", "aws").parsed).toEqual({
    kind: "run",
    options: { ...DEFAULTS, sqs, runtime: "aws" },
  });
});

test("--help shows every option", () => {
  const { parsed, out } = parse("--help");
  expect(parsed).toEqual({ kind: "done", exitCode: 0 });
  for (const option of ["--workflow", "--fail", "--json", "--sqs", "--runtime"])
    expect(out).toContain(option);
});

test.each([
  [["--unknown"], "--unknown"],
  [["--workflow"], "--workflow"],
  [["stray.json"], "too many arguments"],
  [["--sqs", "rabbit"], "fauxqs, local-aws-sqs, localstack, auto, or an http:// or https:// URL"],
  [["--runtime", "python"], "own, aws"],
])("%j is refused", (args, reason) => {
  const { parsed, err } = parse(...args);
  expect(parsed).toEqual({ kind: "done", exitCode: 2 });
  expect(err).toContain(reason);
});

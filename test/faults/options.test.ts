import { describe, expect, it } from "vitest";
import { parseOptions } from "#test/faults/options.ts";

const KINDS = ["kill", "flush"];

function parsed(...args: string[]) {
  let out = "";
  let err = "";
  const result = parseOptions(args, KINDS, () => 17, {
    out: (text) => {
      out += text;
    },
    err: (text) => {
      err += text;
    },
  });
  return { result, out, err };
}

describe("the options of the fault harness", () => {
  it("default to all kinds, the full scale and a random seed", () => {
    expect(parsed().result).toEqual({
      kind: "run",
      options: { scale: "full", seed: 17, only: KINDS, cases: undefined },
    });
  });

  it("select one case by its kind, its seed and one case", () => {
    expect(parsed("--only", "kill", "--seed", "4711", "--cases", "1", "--quick").result).toEqual({
      kind: "run",
      options: { scale: "quick", seed: 4711, only: ["kill"], cases: 1 },
    });
  });

  it.each([
    [["--seed", "0"]],
    [["--seed", "x"]],
    [["--cases", "1.5"]],
    [["--only", "sleep"]],
    [["now"]],
    [["--fast"]],
  ])("reject %j with an error message", (args) => {
    const { result, err } = parsed(...args);
    expect(result).toEqual({ kind: "done", exitCode: 2 });
    expect(err).toMatch(/^error: /);
  });

  it("print a help text with every option and kind", () => {
    const { result, out } = parsed("--help");
    expect(result).toEqual({ kind: "done", exitCode: 0 });
    for (const word of ["--quick", "--only", "--seed", "--cases", ...KINDS]) expect(out).toContain(word);
  });
});

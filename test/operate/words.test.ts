import { execFileSync } from "node:child_process";
import { expect, it } from "vitest";
import { shellWord } from "#operate/words.ts";

it.each(["gpu", "big jobs", "a'; exit 1 #", "$(exit 1)", "`exit 1`", "{fp:1}:x", "~", "*"])(
  "writes %j so that a shell reads one argument",
  (text) => {
    expect(execFileSync("sh", ["-c", `printf '%s|' ${shellWord(text)}`], { encoding: "utf8" })).toBe(
      `${text}|`,
    );
  },
);

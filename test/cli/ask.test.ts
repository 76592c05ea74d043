import { PassThrough } from "node:stream";
import { expect, it } from "vitest";
import { ask } from "#cli/kit/terminal.ts";

/** Types keys at the question, as at a terminal. */
async function answerTo(keys: string): Promise<boolean | string> {
  const stopping = new AbortController();
  const input = new PassThrough();
  const output = Object.assign(new PassThrough(), { isTTY: true });
  output.resume();
  const asked = ask("Make these changes?", {
    input,
    output,
    signal: stopping.signal,
    interrupt: () => stopping.abort(),
  });
  input.write(keys);
  return asked.catch(() => (stopping.signal.aborted ? "stopped" : "failed"));
}

it.each([
  ["y\r", true],
  [" YES \r", true],
  ["yeah\r", false],
  ["\r", false],
  ["\u0004", false],
  ["\u0003", "stopped"],
])("takes the keys %j for %s", async (keys, answer) => {
  expect(await answerTo(keys)).toBe(answer);
});

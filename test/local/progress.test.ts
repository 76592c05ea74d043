import { expect, test } from "vitest";
import { ProgressLine } from "#local/progress.ts";
import type { RunProgress } from "#local/run.ts";

const RUNNING: RunProgress = { phase: "running", tasks: 8, done: 4, failed: 1, skipped: 0, messages: 5 };

function output(terminal: { isTTY?: boolean; columns?: number } = {}) {
  const written: string[] = [];
  const write = (text: string | Uint8Array): boolean => written.push(String(text)) > 0;
  return { ...terminal, written, write };
}

test("without a terminal: plain lines, at most one every two seconds", () => {
  const out = output();
  const progress = new ProgressLine(out);
  progress.show({ ...RUNNING, phase: "submitting" });
  for (let done = 0; done < 8; done += 1) progress.show({ ...RUNNING, done });
  progress.note("the end");
  expect(out.written).toEqual([
    "submitting: 4 of 8 executions\n",
    "0 of 8 ended, 1 failed, 5 messages\n",
    "the end\n",
  ]);
});

// A terminal of unknown width reports 0 columns.
test.each([0, 120])(
  "on a terminal of %i columns: one line, redrawn, and erased before other output",
  (columns) => {
    const out = output({ isTTY: true, columns });
    const progress = new ProgressLine(out);
    progress.show(RUNNING);
    expect(out.written.join("")).toBe(
      "\r\u001b[2K[############............] 4 of 8 ended, 1 failed, 5 messages",
    );
    progress.note("the end");
    expect(out.written.slice(1)).toEqual(["\r\u001b[2K", "the end\n"]);
  },
);

test("a narrow terminal: the line is cut, since a wrapped line could not be redrawn", () => {
  const out = output({ isTTY: true, columns: 20 });
  new ProgressLine(out).show(RUNNING);
  expect(out.written.join("").replace("\r\u001b[2K", "").length).toBeLessThan(20);
});

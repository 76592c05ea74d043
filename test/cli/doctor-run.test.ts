/** A check that fails or hangs becomes a finding, and the others still end. */

import { expect, it } from "vitest";
import { found, foundNothing, skip } from "#operate/doctor/finding.ts";
import { runChecks } from "#operate/doctor/run.ts";
import { UnreachableError, ValkeyError } from "#shared/errors.ts";

it("runs all checks, whatever one of them does", async () => {
  const { checks, findings } = await runChecks([
    { name: "hangs", title: "the clock", limitMs: 1, run: () => new Promise(() => undefined) },
    { name: "fails", title: "the disk", run: () => Promise.reject(new Error("no disk")) },
    { name: "throws", title: "the code", run: () => JSON.parse("no JSON") },
    {
      name: "late",
      title: "all indexes",
      run: async () => AbortSignal.abort(timeout()).throwIfAborted() as never,
    },
    { name: "down", title: "the keys", run: () => Promise.reject(new UnreachableError("no reply")) },
    {
      name: "denied",
      title: "the lanes",
      run: () => Promise.reject(new ValkeyError("NOPERM no permissions to run the 'smembers' command")),
    },
    { name: "skips", title: "Lambda", run: async () => skip("there is none") },
    { name: "passes", title: "the queues", run: async () => foundNothing() },
    {
      name: "finds",
      title: "memory",
      run: async () => ({ findings: [found("memory_low", "node", "80 %")] }),
    },
    {
      name: "repeats",
      title: "memory",
      run: async () => ({ findings: [found("memory_low", "node", "80 %")] }),
    },
  ]);
  expect(checks.map(({ name, status, reason }) => [name, status, reason])).toEqual([
    ["hangs", "found", undefined],
    ["fails", "found", undefined],
    ["throws", "found", undefined],
    ["late", "found", undefined],
    ["down", "skipped", "not complete: no reply"],
    ["denied", "found", undefined],
    ["skips", "skipped", "there is none"],
    ["passes", "ok", undefined],
    ["finds", "found", undefined],
    ["repeats", "found", undefined],
  ]);
  expect(findings.map(({ code, where }) => [code, where])).toEqual([
    ["check_timed_out", "the clock"],
    ["check_failed", "the disk"],
    ["check_failed", "the code"],
    ["check_timed_out", "all indexes"],
    ["permission_missing", "the lanes"],
    ["memory_low", "node"],
  ]);
  expect(findings.find(({ code }) => code === "permission_missing")?.remedy).toContain("smembers");
});

function timeout(): DOMException {
  return new DOMException("the time is over", "TimeoutError");
}

import { createHash } from "node:crypto";
import { expect, test } from "vitest";
import { functionNames, librarySource } from "#lua/library.ts";
import { LIBRARY_HASH, LIBRARY_REVISION } from "#lua/revision.ts";

test("a library with another text has another revision", () => {
  const hash = createHash("sha256").update(librarySource(11)).update(librarySource(14)).digest("hex");
  const advice =
    "the Lua library changed: increase LIBRARY_REVISION in lua/revision.ts if this revision was released or deployed " +
    "anywhere, then set LIBRARY_HASH to what this test received";
  expect(hash, advice).toBe(LIBRARY_HASH);
});

test("release 0.1 takes the library for another vendor's, and so never replaces it", () => {
  // It replaces a library whose functions all occur in its own, as found by this expression.
  expect(functionNames(librarySource(11))).toContain("sluice_revision");
  expect(LIBRARY_REVISION).toBeGreaterThan(0);
});

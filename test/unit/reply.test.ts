import { describe, expect, it } from "vitest";
import { editionOf } from "#shared/contract/edition.ts";
import { decodeReply } from "#shared/contract/reply.ts";
import { decodeResolution } from "#shared/contract/resolve.ts";

describe("decodeReply", () => {
  it("decodes a success with strings or bytes as elements", () => {
    const done = { ok: true, value: { kind: "done", status: "OK", fields: ["a", ""] } };
    expect(decodeReply([1, "OK", "a", ""])).toEqual(done);
    expect(decodeReply([1, Buffer.from("OK"), Buffer.from("a"), Buffer.alloc(0)])).toEqual(done);
    expect(decodeReply([1, "DUPLICATE", "id"])).toMatchObject({ value: { status: "DUPLICATE" } });
    expect(decodeReply([1, "ALREADY_SATISFIED"])).toMatchObject({ value: { status: "ALREADY_SATISFIED" } });
  });

  it("decodes a refusal", () => {
    expect(decodeReply([0, "deps_not_satisfied", "2", "1"])).toEqual({
      ok: true,
      value: { kind: "refused", code: "deps_not_satisfied", detail: ["2", "1"] },
    });
  });

  it.each([
    [null],
    ["OK"],
    [undefined],
    [[]],
    [[1]],
    [[0]],
    [[2, "OK"]],
    [["1", "OK"]],
    [[true, "OK"]],
    [[1, "FINE"]],
    [[1, "OK", 3]],
    [[1, "OK", null]],
    [[1, "OK", ["nested"]]],
    [new Error("no")],
  ])("returns a ProtocolError for %j", (raw) => {
    const decoded = decodeReply(raw);
    expect(decoded.ok ? "" : decoded.error.name).toBe("ProtocolError");
  });
});

describe("decodeResolution", () => {
  it.each([
    [[1, "OK", "already_resolved"], { kind: "already_resolved" }],
    [[1, "OK", "satisfied", ""], { kind: "satisfied" }],
    [[1, "OK", "satisfied", "data_injected"], { kind: "satisfied" }],
    [[1, "OK", "impossible", ""], { kind: "impossible", childSkipped: false }],
    [[1, "OK", "impossible", "child_skipped"], { kind: "impossible", childSkipped: true }],
    [[1, "OK", "pending", ""], { kind: "pending" }],
    [[1, "OK", "already_fired", ""], { kind: "already_fired" }],
    [[0, "invalid_dependency"], { kind: "refused", code: "invalid_dependency", detail: [] }],
  ])("decodes %j", (raw, resolution) => {
    expect(decodeResolution(raw)).toEqual({ ok: true, value: resolution });
  });

  it.each([
    [[1, "OK"]],
    [[1, "OK", "satisfied"]],
    [[1, "OK", "satisfied", "child_skipped"]],
    [[1, "OK", "impossible"]],
    [[1, "OK", "impossible", "data_injected"]],
    [[1, "OK", "child_skipped"]],
    [[1, "OK", "impossible", "", "child_skipped"]],
    [[1, "OK", "impossible", "child_skipped", ""]],
    [[1, "OK", "already_resolved", "child_skipped"]],
    [[1, "DUPLICATE", "satisfied", ""]],
  ])("returns a ProtocolError for %j, so that it does not cascade", (raw) => {
    expect(decodeResolution(raw).ok).toBe(false);
  });
});

describe("editionOf", () => {
  it.each([
    ["5", 11],
    ["15", 11],
    ["26", 14],
    ["34", 14],
    [Buffer.from("120"), 14],
  ])("knows version %s as edition %i", (version, edition) => {
    expect(editionOf(version)).toBe(edition);
  });

  it.each(["4", "16", "25", "", "v30", "-5", "7.1", null])(
    "refuses version %s, and names the variable to set",
    (version) => {
      expect(() => editionOf(version)).toThrow(/set LIBRARY_EDITION to 11 or 14/);
    },
  );
});

import { describe, expect, it } from "vitest";
import {
  mintExecutionId,
  parseAttemptIndex,
  parseEdgeId,
  parseExecutionId,
  parseFlowId,
  parseLaneId,
  parseStoredFlowId,
  partitionOf,
  unwrap,
} from "#shared/contract/ids.ts";

const UUID = "550e8400-e29b-41d4-a716-446655440000";

function reasonOf(parsed: { ok: boolean; error?: { reason: string } }): string | undefined {
  return parsed.error?.reason;
}

describe("parseExecutionId", () => {
  it.each([`{fp:0}:${UUID}`, `{fp:65535}:${UUID}`, `{fp:24}:${UUID.toUpperCase()}`])(
    "keeps the spelling of %s",
    (text) => {
      expect(parseExecutionId(text)).toEqual({ ok: true, value: text });
    },
  );

  it.each([
    ["missing_partition_tag", UUID],
    ["missing_partition_tag", ""],
    ["missing_partition_tag", `{b:3}:${UUID}`],
    ["missing_partition_tag", `{fp:3:${UUID}`],
    ["missing_partition_tag", ` {fp:3}:${UUID}`],
    ["missing_partition_tag", null],
    ["missing_partition_tag", 7],
    ["invalid_partition", `{fp:65536}:${UUID}`],
    ["invalid_partition", `{fp:-1}:${UUID}`],
    ["invalid_partition", `{fp:}:${UUID}`],
    ["invalid_partition", `{fp:1.5}:${UUID}`],
    ["invalid_partition", `{fp:007}:${UUID}`],
    ["invalid_partition", `{fp:x}:${UUID}`],
    ["invalid_uuid", "{fp:3}:"],
    ["invalid_uuid", `{fp:3}:${UUID} `],
    ["invalid_uuid", `{fp:3}:${UUID.replaceAll("-", "")}`],
    ["invalid_uuid", `{fp:3}:${UUID}\n`],
    ["invalid_uuid", "{fp:3}:not-a-uuid"],
  ])("refuses with %s: %s", (reason, text) => {
    expect(reasonOf(parseExecutionId(text))).toBe(reason);
  });

  it("quotes a truncated value in the message", () => {
    const parsed = parseExecutionId("x".repeat(10_000));
    expect(parsed.ok ? "" : parsed.error.message).toMatch(/^expected an execution id like .{1,140}$/);
  });
});

describe("parseFlowId, parseEdgeId, parseLaneId and parseAttemptIndex", () => {
  it("parseFlowId accepts a UUID in any case, and returns it in lower case", () => {
    expect(parseFlowId(UUID.toUpperCase())).toEqual({ ok: true, value: UUID });
    expect(reasonOf(parseFlowId(UUID.slice(1)))).toBe("invalid_uuid");
  });

  it.each([parseStoredFlowId, parseEdgeId])("accept only a UUID, in upper or lower case", (parse) => {
    expect(parse(UUID.toUpperCase())).toEqual({ ok: true, value: UUID.toUpperCase() });
    for (const text of ["", UUID.slice(1), `${UUID}0`, `{fp:1}:${UUID}`, undefined]) {
      expect(reasonOf(parse(text))).toBe("invalid_uuid");
    }
  });

  it("accept lanes of 1 to 64 printable ASCII characters", () => {
    for (const lane of ["default", "a b~", "x".repeat(64)]) expect(unwrap(parseLaneId(lane))).toBe(lane);
    for (const lane of ["", "x".repeat(65), "tab\t", "é", "\x7f", 5]) {
      expect(reasonOf(parseLaneId(lane))).toBe("invalid_lane");
    }
  });

  it("read a missing or empty attempt index as 0", () => {
    for (const text of [undefined, null, "", "0"]) expect(unwrap(parseAttemptIndex(text))).toBe(0);
    expect(unwrap(parseAttemptIndex("4294967295"))).toBe(4_294_967_295);
    for (const text of ["4294967296", "-1", "1.0", "one"]) {
      expect(reasonOf(parseAttemptIndex(text))).toBe("invalid_attempt_index");
    }
  });
});

describe("partitionOf", () => {
  it("reads the partition from the hash tag of the id", () => {
    expect(partitionOf(unwrap(parseExecutionId(`{fp:1023}:${UUID}`)))).toBe(1023);
  });

  it("reads the partition of a minted id", () => {
    const partition = partitionOf(unwrap(parseExecutionId(`{fp:24}:${UUID}`)));
    expect(unwrap(mintExecutionId(partition, UUID))).toBe(`{fp:24}:${UUID}`);
    expect(() => unwrap(mintExecutionId(partition, "nonsense"))).toThrow(/ends in a UUID/);
  });
});

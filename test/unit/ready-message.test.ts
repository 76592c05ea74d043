import { describe, expect, it } from "vitest";
import { parseExecutionId, parseFlowId, parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { readReadyQueues } from "#shared/ready/config.ts";
import { parseReadyMessage, type ReadyExecution, readyEntry } from "#shared/ready/message.ts";
import { parseAnnounceable, parseReadiness } from "#shared/ready/readiness.ts";

const executionId = unwrap(parseExecutionId("{fp:42}:0f8c1a52-7d3b-4e0e-9d7a-3c5b2a1f0e9d"));
const flowId = unwrap(parseFlowId("2c1d9f6e-1111-4222-8333-944445555666"));
const ready: ReadyExecution = { executionId, flowId, lane: unwrap(parseLaneId("images")), kind: "resize" };

function recordOf(entry: ReturnType<typeof readyEntry>): unknown {
  const attributes = Object.entries(entry.MessageAttributes ?? {}).map(([name, attribute]) => [
    name,
    { dataType: attribute.DataType, stringValue: attribute.StringValue },
  ]);
  return { messageId: "1", body: entry.MessageBody, messageAttributes: Object.fromEntries(attributes) };
}

describe("ready messages", () => {
  it("are read as they were written", () => {
    const traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const root = unwrap(parseExecutionId("{fp:42}:9f8c1a52-7d3b-4e0e-9d7a-3c5b2a1f0e9d"));
    const written = { ...ready, root, traceparent };
    expect(parseReadyMessage(recordOf(readyEntry(written)))).toEqual({ ok: true, value: written });
  });

  it("belong to the message group of their flow, or of the execution if it has none", () => {
    expect(readyEntry(ready).MessageGroupId).toBe(flowId);
    expect(readyEntry({ ...ready, flowId: undefined }).MessageGroupId).toBe(executionId);
  });

  it("are delayed only if a delay is given", () => {
    expect(readyEntry({ ...ready, delaySeconds: 30 }).DelaySeconds).toBe(30);
    expect(readyEntry(ready)).not.toHaveProperty("DelaySeconds");
  });

  it.each([
    [{}, /body/],
    [{ body: "[]" }, /body/],
    [{ body: JSON.stringify({ type: "completed" }) }, /type/],
    [{ body: JSON.stringify({ type: "ready", execution_id: "x" }) }, /execution_id/],
    [{ body: JSON.stringify({ type: "ready", execution_id: executionId, flow_id: "x" }) }, /flow_id/],
    [{ body: JSON.stringify({ type: "ready", execution_id: executionId, flow_id: "", lane: "" }) }, /lane/],
    [{ body: JSON.stringify({ type: "ready", execution_id: executionId, lane: "images" }) }, /kind/],
  ])("%j is refused with the field that is wrong", (record, reason) => {
    const parsed = parseReadyMessage(record);
    expect(parsed.ok ? "" : parsed.error.message).toMatch(reason);
  });
});

describe("readiness", () => {
  it.each([
    [["runnable", "unowned", "eligible_now", "images", "resize", "1", "2"], "1:2"],
    [["runnable", "unowned", "eligible_now", "images", "resize", null, null], "0:0"],
    [["active", "lease_expired_reclaimable", "not_applicable", "images", "resize", "0", "1"], "0:1"],
    [["active", "lease_revoked", "not_applicable", "images", "resize", "0", "1"], "0:1"],
    [["active", "leased", "not_applicable", "images", "resize", "0", "1"], undefined],
    [["runnable", "unowned", "not_eligible_until_time", "images", "resize", "0", "1"], undefined],
    [["terminal", "unowned", "not_applicable", "images", "resize", "0", "1"], undefined],
    [[null, null, null, null, null, null, null], undefined],
    ["OK", undefined],
  ])("%j: eligibility %s", (record, expected) => {
    expect(parseReadiness(record)?.eligibility).toBe(expected);
  });

  const delayed = ["runnable", "unowned", "not_eligible_until_time", "images", "resize", "0", "1"];
  it.each([
    [[...delayed, "1000000"], 0],
    [[...delayed, "999000"], 0],
    [[...delayed, "1000001"], 1],
    [[...delayed, "1002500"], 3],
    [[...delayed, "1900000"], 900],
    [[...delayed, "1900001"], undefined],
    [[...delayed, ""], undefined],
    [["runnable", "unowned", "eligible_now", "images", "resize", "0", "0", "9999999"], 0],
    [["runnable", "unowned", "blocked_by_dependencies", "images", "resize", "0", "0", "1000000"], undefined],
  ])("%j is announced with a delay of %s seconds, rounded up", (record, expected) => {
    expect(parseAnnounceable(record, 1_000_000)?.delaySeconds).toBe(expected);
  });
});

describe("READY_QUEUES", () => {
  const url = "http://127.0.0.1:4566/000000000000/images";

  it("maps lanes to queues, and is empty if it is not set", () => {
    const errors: string[] = [];
    const queues = readReadyQueues(
      { READY_QUEUES: JSON.stringify({ images: url, "large files": url }) },
      errors,
    );
    expect(errors).toEqual([]);
    expect([...queues]).toEqual([
      ["images", url],
      ["large files", url],
    ]);
    expect(readReadyQueues({}, errors).size).toBe(0);
  });

  it.each([
    ["images=http://127.0.0.1/1/q", /READY_QUEUES is not a JSON object/],
    ['{"images": 5}', /lane images is not a string/],
    ['{"": "http://127.0.0.1/1/q"}', /READY_QUEUES: expected/],
    ['{"images": "ftp://127.0.0.1/1/q"}', /READY_QUEUES of lane images/],
    ['{"images": "http://127.0.0.1/1/q.fifo"}', /READY_QUEUES of lane images names a FIFO queue/],
  ])("%s is an error that says what is wrong", (text, reason) => {
    const errors: string[] = [];
    readReadyQueues({ READY_QUEUES: text }, errors);
    expect(errors.join("\n")).toMatch(reason);
  });
});

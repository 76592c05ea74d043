import { describe, expect, it } from "vitest";
import { parseExecutionId, parseFlowId, unwrap } from "#shared/contract/ids.ts";
import { parseCompletionEvent, toBatchEntry } from "#shared/contract/message.ts";

const FLOW = "550e8400-e29b-41d4-a716-446655440000";
const EXECUTION = `{fp:24}:${FLOW}`;
const OTHER = `{fp:24}:${"1".repeat(8)}-1111-1111-1111-111111111111`;
const TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

type Attributes = Readonly<Record<string, unknown>>;

function record(body: unknown, attributes: Attributes | null = {}): object {
  return { body: typeof body === "string" ? body : JSON.stringify(body), messageAttributes: attributes };
}

function reasonOf(message: unknown): string {
  const parsed = parseCompletionEvent(message);
  return parsed.ok ? "" : parsed.error.message;
}

const BODY = { execution_id: EXECUTION, flow_id: FLOW, outcome: "success" };

describe("parseCompletionEvent", () => {
  it("parses the contract's message, with defaults for depth and root", () => {
    expect(parseCompletionEvent(record({ ...BODY, extra: [1] }))).toEqual({
      ok: true,
      value: {
        executionId: EXECUTION,
        flowId: FLOW,
        depth: 0,
        generation: 0,
        root: EXECUTION,
        traceparent: undefined,
      },
    });
  });

  it("parses the entries of toBatchEntry", () => {
    const entry = toBatchEntry(
      {
        executionId: unwrap(parseExecutionId(EXECUTION)),
        flowId: unwrap(parseFlowId(FLOW)),
        outcome: "skipped",
        depth: 7,
        generation: 3,
        delaySeconds: 60,
        root: unwrap(parseExecutionId(OTHER)),
        traceparent: TRACE,
      },
      "0",
    );
    expect(entry).toMatchObject({
      MessageBody: JSON.stringify({ ...BODY, outcome: "skipped" }),
      MessageGroupId: FLOW,
      DelaySeconds: 60,
    });
    const attributes = Object.fromEntries(
      Object.entries(entry.MessageAttributes ?? {}).map(([name, { DataType, StringValue }]) => [
        name,
        { dataType: DataType ?? "", stringValue: StringValue },
      ]),
    );
    expect(parseCompletionEvent(record(entry.MessageBody ?? "", attributes))).toEqual({
      ok: true,
      value: {
        executionId: EXECUTION,
        flowId: FLOW,
        depth: 7,
        generation: 3,
        root: OTHER,
        traceparent: TRACE,
      },
    });
  });

  it.each([
    ["no attributes", null],
    ["attributes that are null", { depth: null, generation: null, root: null, traceparent: null }],
  ])("takes %s for absent ones", (_, attributes) => {
    const absent = parseCompletionEvent(record(BODY, {}));
    expect(parseCompletionEvent(record(BODY, attributes))).toEqual(absent);
    expect(parseCompletionEvent({ body: JSON.stringify(BODY) })).toEqual(absent);
    expect(absent).toMatchObject({ ok: true });
  });

  it.each([undefined, null, ""])("reads flow_id %j as no flow", (flowId) => {
    const parsed = parseCompletionEvent(record({ ...BODY, flow_id: flowId }));
    expect(parsed).toMatchObject({ ok: true, value: { flowId: undefined } });
  });

  it("ignores the outcome", () => {
    expect(parseCompletionEvent(record({ ...BODY, outcome: 12 }))).toMatchObject({ ok: true });
  });

  it.each([TRACE, TRACE.replace(/^00/, "01"), `${TRACE.replace(/^00/, "cc")}-and-more`])(
    "keeps the valid traceparent %j unchanged",
    (stringValue) => {
      const parsed = parseCompletionEvent(record(BODY, { traceparent: { dataType: "String", stringValue } }));
      expect(parsed).toMatchObject({ ok: true, value: { traceparent: stringValue } });
    },
  );

  it.each([
    "kept",
    "",
    undefined,
    TRACE.replace(/^00/, "ff"),
    TRACE.toUpperCase(),
    TRACE.replace(/-[0-9a-f]{32}-/, `-${"0".repeat(32)}-`),
    TRACE.replace(/-[0-9a-f]{16}-/, `-${"0".repeat(16)}-`),
    `${TRACE}-and-more`,
    `${TRACE.replace(/^00/, "01")}and-more`,
    ` ${TRACE}`,
  ])("drops only the malformed traceparent %j", (stringValue) => {
    const parsed = parseCompletionEvent(record(BODY, { traceparent: { dataType: "String", stringValue } }));
    expect(parsed).toMatchObject({ ok: true, value: { executionId: EXECUTION, traceparent: undefined } });
  });

  it("ignores the attributes of an execution in no flow", () => {
    const attributes = { depth: { dataType: "Number", stringValue: "-1" }, root: { dataType: "String" } };
    const parsed = parseCompletionEvent(record({ ...BODY, flow_id: "" }, attributes));
    expect(parsed).toMatchObject({ ok: true, value: { flowId: undefined } });
  });

  it.each([
    ["the record is not", undefined],
    ["the record is not", null],
    ["the record is not", []],
    ["the record is not", "text"],
    ["no body", {}],
    ["no body", { body: null }],
    ["no body", { body: BODY }],
    ["attributes", { body: JSON.stringify(BODY), messageAttributes: "depth" }],
    ["attributes", { body: JSON.stringify(BODY), messageAttributes: [] }],
    ["not a JSON object", record("{")],
    ["not a JSON object", record("[]")],
    ["not a JSON object", record("null")],
    ["not a JSON object", record('"text"')],
    ["not a JSON object", record("")],
    ["execution_id", record({ flow_id: FLOW })],
    ["execution_id", record({ ...BODY, execution_id: FLOW })],
    ["execution_id", record({ ...BODY, execution_id: { toString: 1 } })],
    ["flow_id", record({ ...BODY, flow_id: 5 })],
    ["flow_id", record({ ...BODY, flow_id: "x" })],
    ["depth", record(BODY, { depth: { dataType: "Number", stringValue: "-1" } })],
    ["depth", record(BODY, { depth: { dataType: "Number", stringValue: "1.5" } })],
    ["depth", record(BODY, { depth: { dataType: "Number", stringValue: "" } })],
    ["depth", record(BODY, { depth: { dataType: "Number" } })],
    ["depth", record(BODY, { depth: { dataType: "String", stringValue: "1" } })],
    ["depth", record(BODY, { depth: { dataType: "Number", stringValue: "9".repeat(400) } })],
    ["depth", record(BODY, { depth: { dataType: "Number", stringValue: null } })],
    ["depth", record(BODY, { depth: { dataType: { toString: 1 }, stringValue: "1" } })],
    ["depth", record(BODY, { depth: { dataType: "Numbers", stringValue: "1" } })],
    ["depth", record(BODY, { depth: 1 })],
    ["generation", record(BODY, { generation: { dataType: "Number", stringValue: "-1" } })],
    ["generation", record(BODY, { generation: { dataType: "String", stringValue: "1" } })],
    ["root", record(BODY, { root: { dataType: "String", stringValue: null } })],
    ["root", record(BODY, { root: { dataType: "String", stringValue: "x" } })],
  ])("rejects a message, naming %s (case %#)", (named, message) => {
    expect(reasonOf(message)).toContain(named);
  });
});

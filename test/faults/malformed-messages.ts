/** Generates messages that are not completion events. */

import type { Random } from "#test/faults/random.ts";

export interface MalformedMessage {
  readonly kind: string;
  readonly body: string;
  readonly depth?: { readonly type: string; readonly value: string };
  readonly root?: string;
}

/** The parts of a valid message. */
interface ValidMessage {
  readonly execution: string;
  readonly flow: string;
  readonly uuid: string;
}

type Malform = (valid: ValidMessage, random: Random) => Omit<MalformedMessage, "kind">;

const HUGE_BYTES = 200_000;
const NESTING = 20_000;

function bodyOf(fields: Readonly<Record<string, unknown>>): Omit<MalformedMessage, "kind"> {
  return { body: JSON.stringify(fields) };
}

function withDepth(type: string, value: string): Malform {
  return ({ execution, flow }) => ({
    ...bodyOf({ execution_id: execution, flow_id: flow }),
    depth: { type, value },
  });
}

function withExecution(make: (valid: ValidMessage, random: Random) => unknown): Malform {
  return (valid, random) => bodyOf({ execution_id: make(valid, random), flow_id: valid.flow });
}

function withFlow(make: (valid: ValidMessage) => unknown): Malform {
  return (valid) => bodyOf({ execution_id: valid.execution, flow_id: make(valid) });
}

const KINDS: Readonly<Record<string, Malform>> = {
  "no JSON": (_, random) => ({ body: random.pick(["hello", "{", "execution_id=1", "<xml/>", "NaN", " "]) }),
  "cut off": ({ execution }) => ({ body: JSON.stringify({ execution_id: execution }).slice(0, -3) }),
  "no object": (_, random) => ({ body: random.pick(["null", "true", "17", '"text"', "[]", "[{}]"]) }),
  "empty object": () => ({ body: "{}" }),
  "other fields": ({ flow, execution }) => bodyOf({ executionId: execution, flow_id: flow }),
  huge: ({ flow }, random) =>
    bodyOf({ execution_id: "x".repeat(HUGE_BYTES + random.below(1_000)), flow_id: flow }),
  "huge and no JSON": (_, random) => ({ body: "[".concat("9,".repeat(HUGE_BYTES / 2 - random.below(99))) }),
  "nested arrays": () => ({ body: "[".repeat(NESTING) + "]".repeat(NESTING) }),
  "nested objects": () => ({ body: '{"a":'.repeat(NESTING) + "1".concat("}".repeat(NESTING)) }),
  unicode: withExecution((_, random) => random.pick(["執行", "\u202eabc", "e\u0301", "ﷺ", "{fp:１}:x"])),
  "a number for an id": withExecution((_, random) => random.below(1_000_000)),
  "another type for an id": withExecution(({ execution }, random) =>
    random.pick([null, true, [execution], { id: execution }]),
  ),
  "another family's tag": withExecution(
    ({ uuid }, random) => `{${random.pick(["b", "q", "FP", ""])}:7}:${uuid}`,
  ),
  "no tag": withExecution(({ uuid }) => uuid),
  "a partition out of range": withExecution(
    ({ uuid }, random) => `{fp:${random.pick(["65536", "-1", "1e3", "007", "+1", "0x1", ""])}}:${uuid}`,
  ),
  "no UUID": withExecution(
    ({ uuid }, random) => `{fp:7}:${random.pick(["", "x", uuid.slice(1), `${uuid}0`])}`,
  ),
  "an unhyphenated UUID": withExecution(({ uuid }) => `{fp:7}:${uuid.replaceAll("-", "")}`),
  "a space around an id": withExecution(({ execution }) => ` ${execution} `),
  "a flow that is no UUID": withFlow(({ uuid }) => `flow-${uuid}`),
  "a flow of another type": withFlow(({ flow }) => [flow]),
  "a number for a flow": withFlow(() => 550_000),
  "a negative depth": withDepth("Number", "-1"),
  "a fractional depth": withDepth("Number", "1.5"),
  "a depth that is text": withDepth("String", "3"),
  "a depth that is no number": withDepth("String", "deep"),
  "a depth beyond counting": withDepth("Number", "99999999999999999999"),
  "a root that is no id": ({ execution, flow, uuid }) => ({
    ...bodyOf({ execution_id: execution, flow_id: flow }),
    root: uuid,
  }),
};

/** Generates `count` messages, of all kinds in turn. */
export function malformedMessages(random: Random, count: number): MalformedMessage[] {
  const variants = Object.entries(KINDS);
  return Array.from({ length: count }, (_, index) => {
    const [kind, malform] = variants[index % variants.length] ?? random.pick(variants);
    const uuid = random.uuid();
    return { kind, ...malform({ uuid, execution: `{fp:7}:${uuid}`, flow: random.uuid() }, random) };
  });
}

import { type Continuation, type HiddenMessage, NO_TOTALS, type Totals } from "#shared/redrive/report.ts";

type Fields = Readonly<Record<string, unknown>>;

/** Parses the continuation of an earlier slice. Undefined if there is none, or if it is invalid, which adds an error. */
export function parseContinuation(value: unknown, errors: string[]): Continuation | undefined {
  if (value === undefined || value === null) return undefined;
  const continuation = isFields(value) ? read(value) : undefined;
  if (continuation === undefined) {
    errors.push(
      '"continuation" is invalid: pass the continuation of an earlier report unchanged, or omit it',
    );
  }
  return continuation;
}

function read(fields: Fields): Continuation | undefined {
  const { pass, task_handle: handle, started_at: startedAt, next_send_at: nextSendAt } = fields;
  if (pass === "move_task") {
    return typeof handle === "string" && handle !== "" ? { pass, task_handle: handle } : undefined;
  }
  if (pass !== "receive" || typeof startedAt !== "number" || typeof nextSendAt !== "number") return undefined;
  const totals = readTotals(fields.totals);
  const held = readHeld(fields.held);
  if (totals === undefined || held === undefined) return undefined;
  return { pass, started_at: startedAt, next_send_at: nextSendAt, totals, held };
}

/** Parses the six counts. Undefined if one is missing or not a non-negative integer. */
function readTotals(value: unknown): Totals | undefined {
  if (!isFields(value)) return undefined;
  const read = (name: keyof Totals): number => {
    const count = value[name];
    return typeof count === "number" && Number.isSafeInteger(count) && count >= 0 ? count : Number.NaN;
  };
  const totals: Totals = {
    seen: read("seen"),
    matching: read("matching"),
    replayed: read("replayed"),
    failed: read("failed"),
    kept: read("kept"),
    over_limit: read("over_limit"),
  };
  return Object.keys(NO_TOTALS).length === Object.values(totals).filter(Number.isInteger).length
    ? totals
    : undefined;
}

function readHeld(value: unknown): readonly HiddenMessage[] | undefined {
  if (!Array.isArray(value)) return undefined;
  const held: HiddenMessage[] = [];
  for (const pair of value as readonly unknown[]) {
    const [id, handle]: readonly unknown[] = Array.isArray(pair) ? pair : [];
    if (typeof id !== "string" || typeof handle !== "string") return undefined;
    held.push([id, handle]);
  }
  return held;
}

function isFields(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

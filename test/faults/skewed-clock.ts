/** Loaded before a program (`--import`): its wall clock is off by CLOCK_OFFSET_MS. The monotonic clock is not. */

import { isObject } from "#shared/contract/message.ts";

const offsetMs = Number(process.env.CLOCK_OFFSET_MS);
const RealDate = Date;

class SkewedDate extends RealDate {
  constructor(...args: [] | [value: number | string | Date]) {
    if (args.length === 0) super(RealDate.now() + offsetMs);
    else super(...args);
  }
  static override now(): number {
    return RealDate.now() + offsetMs;
  }
}
globalThis.Date = SkewedDate as DateConstructor;

// The deadline of an invocation comes from the clock of the function's own host.
if (process.channel) {
  process.prependListener("message", (message: unknown) => {
    if (isObject(message) && typeof message.deadlineMs === "number") message.deadlineMs += offsetMs;
  });
}

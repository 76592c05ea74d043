/** Two concurrent deliveries: the visibility timeout expires during the first, and another process gets the messages. */

import type { SQSRecord } from "aws-lambda";
import type { FunctionProcess } from "#local/function-process.ts";
import { Breakpoint } from "#test/faults/breakpoint.ts";
import type { CaseContext } from "#test/faults/case.ts";
import type { Delivery } from "#test/faults/manual-queue.ts";
import { type InjectionPoint, nameOf } from "#test/faults/steps.ts";

export interface HeldDelivery {
  /** The result of the first delivery, after `hold` has released it. */
  readonly end: Promise<Delivery>;
}

/**
 * Delivers a batch and holds the function at one of the points until `hold` resolves. Meanwhile the messages are
 * redelivered to `second`. Returns undefined if the delivery reached none of the points; it is complete then.
 */
export async function redeliverWhileHeld(
  { bed, onReached }: CaseContext,
  records: readonly SQSRecord[],
  points: readonly InjectionPoint[],
  second: FunctionProcess,
  hold: (secondDone: Promise<void>) => Promise<void>,
): Promise<HeldDelivery | undefined> {
  const reached = Promise.withResolvers<true>();
  const secondDone = Promise.withResolvers<void>();
  const breakpoint = new Breakpoint(points, async () => {
    reached.resolve(true);
    await hold(secondDone.promise);
    return "pass";
  });
  bed.breakpoint = breakpoint;
  const end = bed.invoke(records);
  const isHeld = await Promise.race([reached.promise, end.then(() => false)]);
  bed.breakpoint = undefined;
  if (!isHeld || breakpoint.hitAt === undefined) {
    await bed.settle(records, await end);
    return undefined;
  }
  onReached(nameOf(breakpoint.hitAt));
  bed.note(`redelivered while the first delivery was held ${nameOf(breakpoint.hitAt)}`);
  await bed.release(records);
  await bed.deliver(await bed.receive(records.length), second);
  secondDone.resolve();
  return { end };
}

/** A delivery that is overtaken: its visibility runs out while it works, and another process gets the messages. */

import type { SQSRecord } from "aws-lambda";
import type { FunctionProcess } from "#local/function-process.ts";
import type { CaseContext } from "#test/faults/case.ts";
import type { Delivery } from "#test/faults/stepped-queue.ts";
import { nameOf, type Point } from "#test/faults/steps.ts";
import { Trap } from "#test/faults/trap.ts";

export interface Overtaken {
  /** The first delivery's end, once it may go on. */
  readonly end: Promise<Delivery>;
}

/**
 * Delivers, and holds the delivery at one of the points, where `hold` says for how long; meanwhile the messages come
 * again to `second`. Undefined where the delivery came to none of the points: it is done then.
 */
export async function overtake(
  { rig }: CaseContext,
  records: readonly SQSRecord[],
  points: readonly Point[],
  second: FunctionProcess,
  hold: (secondDone: Promise<void>) => Promise<void>,
): Promise<Overtaken | undefined> {
  const reached = Promise.withResolvers<true>();
  const secondDone = Promise.withResolvers<void>();
  const trap = new Trap(points, async () => {
    reached.resolve(true);
    await hold(secondDone.promise);
    return "pass";
  });
  rig.trap = trap;
  const end = rig.invoke(records);
  const isHeld = await Promise.race([reached.promise, end.then(() => false)]);
  rig.trap = undefined;
  if (!isHeld || trap.sprung === undefined) {
    await rig.settle(records, await end);
    return undefined;
  }
  rig.note(`overtaken ${nameOf(trap.sprung)}`);
  await rig.release(records);
  await rig.deliver(await rig.receive(records.length), second);
  secondDone.resolve();
  return { end };
}

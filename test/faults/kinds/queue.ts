/** The queue refuses sends, takes some entries of a batch, throttles, or answers nobody any more. */

import { drive, type Kind } from "#test/faults/case.ts";
import { randomGraph } from "#test/faults/graph.ts";
import type { Random } from "#test/faults/random.ts";
import { Rig } from "#test/faults/rig.ts";
import { Standalone } from "#test/faults/servers.ts";
import { World } from "#test/faults/world.ts";
import type { SendFault } from "#test/support/faulty-queue.ts";

interface Variant {
  readonly name: string;
  /** Requests that go wrong, from the first one on. */
  readonly times: number;
  fault(random: Random): SendFault;
}

const VARIANTS: readonly Variant[] = [
  { name: "refused", times: 8, fault: () => ({ kind: "http_error", status: 500 }) },
  {
    name: "throttled",
    times: 8,
    fault: () => ({ kind: "http_error", status: 400, type: "com.amazonaws.sqs#RequestThrottled" }),
  },
  {
    name: "unavailable",
    times: 8,
    fault: () => ({ kind: "http_error", status: 503, type: "ServiceUnavailable" }),
  },
  { name: "denied", times: 2, fault: () => ({ kind: "http_error", status: 403, type: "AccessDenied" }) },
  {
    name: "failed entries",
    times: 12,
    fault: (random) => ({ kind: "failed_entries", ids: () => random.chance(60) }),
  },
  {
    name: "all entries failed",
    times: 6,
    fault: () => ({ kind: "failed_entries", ids: () => true }),
  },
  {
    name: "failed for good",
    times: 3,
    fault: (random) => ({ kind: "failed_entries", ids: () => random.chance(60), senderError: true }),
  },
  // Once: the SDK sends again what was taken, and a message is published twice at most.
  { name: "answer lost", times: 1, fault: () => ({ kind: "reply_lost" }) },
];

export const queue: Kind = {
  name: "queue",
  cases: { full: 80, quick: VARIANTS.length },
  rig: async () => Rig.start(await Standalone.start()),
  run: async (context) => {
    const { rig, random } = context;
    const variant = VARIANTS[context.number % VARIANTS.length];
    if (variant === undefined) throw new RangeError("no such variant");
    rig.note(`the queue: ${variant.name}`);
    const world = await World.build(rig, random, randomGraph(random));
    let requests = 0;
    rig.sends.decide = () => {
      requests += 1;
      return requests <= variant.times ? variant.fault(random) : { kind: "none" };
    };
    try {
      await drive(context, world);
    } finally {
      rig.sends.decide = () => ({ kind: "none" });
    }
    if (requests === 0) throw new Error("nothing was sent, so nothing could go wrong");
    return world.judge();
  },
};

/** The queue fails or refuses sends, accepts only some entries of a batch, throttles, or loses an answer. */

import { type FaultKind, runToEnd, UnsuitableCaseError } from "#test/faults/case.ts";
import { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { randomGraph } from "#test/faults/graph.ts";
import type { Random } from "#test/faults/random.ts";
import { Standalone } from "#test/faults/servers.ts";
import { TestBed } from "#test/faults/test-bed.ts";
import type { SendFault } from "#test/support/faulty-queue.ts";

interface Variant {
  readonly name: string;
  /** The number of requests that fail, from the first one on. */
  readonly times: number;
  fault(random: Random): SendFault;
}

const VARIANTS: readonly Variant[] = [
  { name: "internal errors", times: 8, fault: () => ({ kind: "http_error", status: 500 }) },
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
  // Once: the SDK retries an accepted request, and a message may be published at most twice.
  { name: "answer lost", times: 1, fault: () => ({ kind: "reply_lost" }) },
];

/** A child whose send had no answer stays claimed for this long, and up to eight sends in a row have none. */
const FUNCTION_TIMEOUT_MS = 4_000;

export const queue: FaultKind = {
  name: "queue",
  cases: { full: 80, quick: VARIANTS.length },
  startTestBed: async () =>
    TestBed.start(await Standalone.start(), { functionTimeoutMs: FUNCTION_TIMEOUT_MS }),
  run: async (context) => {
    const { bed, random } = context;
    const variant = VARIANTS[context.number % VARIANTS.length];
    if (variant === undefined) throw new RangeError("no such variant");
    bed.note(`the queue: ${variant.name}`);
    const flow = await FlowUnderTest.build(bed, random, randomGraph(random));
    let requests = 0;
    bed.queueProxy.decide = () => {
      requests += 1;
      return requests <= variant.times ? variant.fault(random) : { kind: "none" };
    };
    try {
      await runToEnd(context, flow);
    } finally {
      bed.queueProxy.decide = () => ({ kind: "none" });
    }
    if (requests === 0) throw new UnsuitableCaseError("nothing was sent to the queue");
    return flow.compareWithModel();
  },
};

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { CompletionEvent } from "#shared/contract/message.ts";
import type { SluiceError } from "#shared/errors.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { chunked } from "#shared/valkey/batches.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { Random } from "#test/faults/random.ts";
import { dispatchOne, eventOf, portsOf, QueueProbe } from "#test/support/dispatch.ts";
import { FaultyQueue } from "#test/support/faulty-queue.ts";
import { FlowFixture } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

const LOST_PERCENT = 80;
const LEVELS = 5;
const CHAINS = 24;
const CONCURRENCY = 8;
/** How long a claim lives: the time that the dispatcher's clock leaves to the deadline. A send has a minute. */
const CLAIM_MS = 400;
const SEND_MS = 60_000;

describe.each(DEPLOYMENTS)("a queue whose answers are lost ($name)", ({ connect }) => {
  let valkey: Valkey;
  let queue: QueueProbe;
  let faulty: FaultyQueue;

  beforeAll(async () => {
    valkey = connect();
    queue = await QueueProbe.start();
    faulty = await FaultyQueue.before(queue.queue.endpoint);
  });
  afterAll(async () => {
    valkey.close();
    await faulty[Symbol.asyncDispose]();
    await queue[Symbol.asyncDispose]();
  });

  /** A chain of executions whose first one failed; the ids by level. */
  async function failedChain(): Promise<{ event: CompletionEvent; ids: string[] }> {
    const fixture = new FlowFixture(valkey);
    const members = [await fixture.member()];
    for (let level = 0; level < LEVELS; level += 1) {
      const child = await fixture.member();
      const parent = members.at(-1);
      if (parent) await fixture.edge(parent, child);
      members.push(child);
    }
    const [root] = members;
    if (!root) throw new Error("the chain has no root");
    await fixture.finish(root, "failed");
    return { event: eventOf(root.id, fixture.flow.id), ids: members.slice(1).map(({ id }) => id) };
  }

  it("publishes each skipped child about 1 / (1 - p) times at every depth, and loses none", {
    timeout: 120_000,
  }, async () => {
    const random = new Random(20_261_127);
    faulty.decide = () => (random.chance(LOST_PERCENT) ? { kind: "reply_lost" } : { kind: "none" });
    const copies = new Map<string, number>();
    const publisher = new SqsCompletionPublisher(faulty.client(), queue.queue.queueUrl);
    const chains = await Promise.all(Array.from({ length: CHAINS }, failedChain));
    const deliver = async (event: CompletionEvent) => {
      const ports = portsOf(valkey, queue, {
        publisher,
        now: () => Date.now() + SEND_MS - CLAIM_MS,
        deadlineMs: Date.now() + SEND_MS,
      });
      return { event, errors: await dispatchOne(ports, event) };
    };
    let unacknowledged: CompletionEvent[] = chains.map(({ event }) => event);
    while (unacknowledged.length > 0) {
      // Few at a time: a slow machine must not keep a delivery from a claim of CLAIM_MS.
      const results: { event: CompletionEvent; errors: readonly SluiceError[] }[] = [];
      for (const events of chunked(unacknowledged, () => 1, CONCURRENCY)) {
        results.push(...(await Promise.all(events.map(deliver))));
      }
      const redelivered = results.filter(({ errors }) => errors.length > 0).map(({ event }) => event);
      const arrived = await queue.drainEvents();
      for (const { executionId } of arrived) {
        copies.set(executionId, (copies.get(executionId) ?? 0) + 1);
      }
      unacknowledged = [...redelivered, ...arrived];
    }
    const meanAt = (level: number): number =>
      chains.reduce((sum, { ids }) => sum + (copies.get(ids[level] ?? "") ?? 0), 0) / CHAINS;
    const means = Array.from({ length: LEVELS }, (_, level) => meanAt(level));
    for (const { ids } of chains) for (const id of ids) expect(copies.get(id)).toBeGreaterThanOrEqual(1);
    // 1 / (1 - 0.8) is 5. The delivery that skipped the child sends without a claim, so that one more send can overlap.
    // Deleting the claim after each lost answer multiplies the copies by level, into the hundreds.
    const shown = `copies per level: ${means.map((mean) => mean.toFixed(1))}`;
    expect(means.reduce((sum, mean) => sum + mean, 0) / LEVELS, shown).toBeLessThan(10);
    for (const mean of means) expect(mean, shown).toBeLessThan(15);
  });
});

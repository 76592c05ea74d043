import { SQSClient } from "@aws-sdk/client-sqs";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { Forwarder } from "#relay/forwarder.ts";
import { readPublished } from "#relay/published.ts";
import { newTally } from "#relay/tally.ts";
import type { Completion } from "#shared/contract/message.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { newEvent } from "#test/relay/events.ts";
import { QueueProbe, RecordedTelemetry } from "#test/support/dispatch.ts";
import { TcpProxy } from "#test/support/tcp-proxy.ts";

function completions(count: number): Completion[] {
  return Array.from({ length: count }, () => {
    const published = readPublished(newEvent().text);
    if (published.kind !== "completion") throw new Error("not a completion");
    return published.completion;
  });
}

const idsOf = (some: readonly { readonly executionId: string }[]) =>
  some.map(({ executionId }) => executionId).sort();

describe("a forwarder", () => {
  const stack = new AsyncDisposableStack();
  let probe: QueueProbe;
  let proxy: TcpProxy;
  beforeAll(async () => {
    probe = stack.use(await QueueProbe.start());
    proxy = stack.use(await TcpProxy.before(new URL(probe.queue.endpoint)));
  });
  afterAll(() => stack.disposeAsync());

  /** A forwarder whose queue is behind the proxy. */
  function start(capacity?: number) {
    proxy.mode = "pass";
    const tally = newTally();
    const telemetry = new RecordedTelemetry();
    const client = new SQSClient({
      endpoint: `http://${proxy.url.host}`,
      region: "us-east-1",
      credentials: { accessKeyId: "a", secretAccessKey: "b" },
      maxAttempts: 1,
    });
    const publisher = new SqsCompletionPublisher(client, `http://${proxy.url.host}/000000000000/completions`);
    const forwarder = new Forwarder({ publisher, tally, log: telemetry, ...(capacity && { capacity }) });
    return { forwarder, tally, telemetry, client };
  }
  const soon = () => Date.now() + 10_000;

  it("sends a single completion at once, and all waiting ones when it closes", async () => {
    const { forwarder, tally } = start();
    const [first = [], rest = []] = [completions(1), completions(1_234)];
    for (const one of first) forwarder.offer(one);
    await vi.waitFor(() => expect(tally.forwarded).toBe(1));
    for (const one of rest) forwarder.offer(one);
    expect(await forwarder.close(soon())).toBe(0);
    expect(tally).toMatchObject({ forwarded: 1_235, dropped: 0 });
    expect(idsOf(await probe.drainEvents())).toEqual(idsOf([...first, ...rest]));
  });

  it("sends full batches", async () => {
    const { forwarder, client } = start();
    const sizes: number[] = [];
    client.middlewareStack.add(
      (next) => (args) => {
        if ("Entries" in args.input) sizes.push(args.input.Entries?.length ?? 0);
        return next(args);
      },
      { step: "initialize", name: "sizes" },
    );
    for (const one of completions(95)) forwarder.offer(one);
    expect(await forwarder.close(soon())).toBe(0);
    expect(sizes).toEqual([...new Array<number>(9).fill(10), 5]);
    await probe.drain();
  });

  it("retries refused completions, and at capacity drops the oldest and counts them", async () => {
    const { forwarder, tally, telemetry } = start(500);
    const all = completions(1_000);
    proxy.mode = "refuse";
    proxy.cut();
    for (const one of all) forwarder.offer(one);
    await vi.waitFor(() =>
      expect(telemetry.warnings.some(({ message }) => /queue refused completions/.test(message))).toBe(true),
    );
    proxy.mode = "pass";
    expect(await forwarder.close(soon())).toBe(0);
    expect(tally.forwarded + tally.dropped).toBe(1_000);
    expect(tally.forwarded).toBeGreaterThanOrEqual(495);
    expect(tally.forwarded).toBeLessThanOrEqual(500);
    expect(idsOf(await probe.drainEvents())).toEqual(idsOf(all.slice(-tally.forwarded)));
  });

  it("returns the number of unsent completions at its deadline", async () => {
    const { forwarder, tally } = start();
    proxy.mode = "refuse";
    proxy.cut();
    for (const one of completions(30)) forwarder.offer(one);
    expect(await forwarder.close(Date.now() + 500)).toBe(30);
    expect(tally.forwarded).toBe(0);
  });
});

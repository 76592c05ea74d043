import { fileURLToPath } from "node:url";
import { describe, expect, it, vi } from "vitest";
import { FunctionProcess } from "#local/function-process.ts";
import { Poller } from "#local/poller.ts";
import { startValkey } from "#local/valkey-server.ts";
import { Relay } from "#relay/relay.ts";
import { COMPLETIONS_CHANNEL } from "#shared/contract/keys.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { newEvent } from "#test/relay/events.ts";
import { RelayProcess } from "#test/relay/relay-process.ts";
import { family, QueueProbe, RecordedTelemetry, stateOf } from "#test/support/dispatch.ts";
import { FlowFixture } from "#test/support/flow-fixture.ts";
import { TcpProxy } from "#test/support/tcp-proxy.ts";
import { connectTo, DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

const BUNDLE = fileURLToPath(new URL("../../dist/dispatch/index.mjs", import.meta.url));

describe.each(DEPLOYMENTS_OF_BOTH)(
  "from the worker to the child ($name, edition of $edition KEYS)",
  (deployment) => {
    it("relays published completions to dispatch, and leaves skipped ones to the dispatcher", async () => {
      const { address } = deployment;
      await using parts = new AsyncDisposableStack();
      const probe = parts.use(await QueueProbe.start());
      const relay = parts.use(await RelayProcess.subscribed(address, probe, address.cluster ? 3 : 1));
      const fn = parts.use(
        new FunctionProcess({
          functionName: "dispatch",
          bundle: BUNDLE,
          environment: {
            ...probe.queue.environment,
            VALKEY_URL: address.url.href,
            VALKEY_CLUSTER_MODE: String(address.cluster),
            COMPLETIONS_QUEUE_URL: probe.queue.queueUrl,
            FLOW_PARTITIONS: "65536",
          },
          timeoutMs: 20_000,
          onOutput: () => undefined,
        }),
      );
      const valkey = deployment.connect();
      parts.defer(() => valkey.close());
      const fixture = new FlowFixture(valkey, undefined, undefined, deployment.edition);
      const good = await family(fixture, 2);
      const bad = await family(fixture, 2);
      const [skipped] = bad.children;
      const below = await fixture.member();
      if (skipped === undefined) throw new Error("no child");
      await fixture.edge(skipped, below);

      const depths: string[] = [];
      const poller = new Poller({
        client: probe.client,
        queueUrl: probe.queue.queueUrl,
        environments: [
          {
            invoke: (event) => {
              const ours = event.Records.filter(({ body }) => body.includes(fixture.flow.id));
              depths.push(...ours.map(({ messageAttributes }) => messageAttributes.depth?.stringValue ?? ""));
              return fn.invoke(event);
            },
          },
        ],
        onError: (error) => {
          throw new Error(error);
        },
      });
      poller.start();
      await fixture.finish(good.parent, "success");
      await fixture.finish(bad.parent, "failed");
      const children = [...good.children, ...bad.children, below];
      await vi.waitFor(
        async () => {
          const states = await Promise.all(children.map((child) => stateOf(fixture, child)));
          expect(states).toEqual(["waiting", "waiting", "skipped", "skipped", "skipped"]);
        },
        { timeout: 20_000 },
      );
      await relay.end();
      await vi.waitFor(() => expect(poller.counts.done).toBe(poller.counts.deliveries), { timeout: 20_000 });
      await vi.waitFor(() => expect([...depths].sort()).toEqual(["0", "0", "1", "1", "2"]), {
        timeout: 20_000,
      });
      await poller.stop();
    });
  },
);

describe("a relay whose connection is lost", () => {
  it.each([
    ["cut", (proxy: TcpProxy) => proxy.cut()],
    [
      "silent",
      (proxy: TcpProxy) => {
        proxy.mode = "silent";
      },
    ],
  ])("detects it (%s), reconnects with backoff, and counts the reconnect", async (_, lose) => {
    await using parts = new AsyncDisposableStack();
    const probe = parts.use(await QueueProbe.start());
    const server = parts.use(await startValkey());
    const proxy = parts.use(await TcpProxy.before(server.url));
    const log = new RecordedTelemetry();
    const relay = new Relay({
      address: { url: proxy.url, cluster: false },
      publisher: new SqsCompletionPublisher(probe.client, probe.queue.queueUrl),
      log,
    });
    parts.defer(async () => {
      await relay.stop(Date.now());
    });
    await vi.waitFor(() => expect(relay.live).toBe(1), { timeout: 5_000 });
    lose(proxy);
    await vi.waitFor(() => expect(relay.live).toBe(0), { timeout: 15_000 });
    proxy.mode = "refuse";
    proxy.cut();
    const failures = () => log.warnings.map(({ fields }) => Number(fields.failures));
    await vi.waitFor(() => expect(failures()).toEqual(expect.arrayContaining([1, 2, 3])), { timeout: 5_000 });
    proxy.mode = "pass";
    await vi.waitFor(() => expect(relay.live).toBe(1), { timeout: 10_000 });
    expect(relay.tally.reconnects).toBe(1);
    const valkey = connectTo({ url: server.url, cluster: false });
    parts.defer(() => valkey.close());
    const { id, text } = newEvent();
    expect(await valkey.call("publish", COMPLETIONS_CHANNEL, text)).toBe(1);
    expect(await relay.stop(Date.now() + 10_000)).toBe(0);
    expect((await probe.drainEvents()).map(({ executionId }) => executionId)).toEqual([id]);
  });
});

import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { startValkey, startValkeyCluster } from "#local/valkey-server.ts";
import { Listener, newEvent, Publisher, untilBroadcasting } from "#test/relay/events.ts";
import { RelayProcess } from "#test/relay/relay-process.ts";
import { QueueProbe } from "#test/support/dispatch.ts";

const CLUSTER_NODES = 3;

describe.each([
  { name: "standalone", cluster: false },
  { name: "cluster", cluster: true },
])("npm run relay ($name)", ({ cluster }) => {
  let probe: QueueProbe;
  /** Used by this file only: events of other tests would be counted. */
  const servers = new AsyncDisposableStack();
  let url: URL;
  let ports: number[];

  beforeAll(async () => {
    probe = servers.use(await QueueProbe.start());
    if (cluster) {
      const started = servers.use(await startValkeyCluster(CLUSTER_NODES));
      ({ url } = started);
      ports = started.nodes.map(({ port }) => port);
      await untilBroadcasting(ports);
    } else {
      const started = servers.use(await startValkey());
      ({ url } = started);
      ports = [started.port];
    }
  });
  afterAll(() => servers.disposeAsync());

  const start = (environment: Record<string, string> = {}) =>
    RelayProcess.subscribed({ url, cluster }, probe, ports.length, environment);
  const queued = async () => (await probe.drainEvents()).map(({ executionId }) => executionId as string);

  it("forwards each completion once, skips other events, and counts all of them", async () => {
    await using relay = await start();
    using publisher = new Publisher(ports);
    using listener = await Listener.on(ports);
    const [plain, again, failed] = [newEvent(), newEvent(), newEvent("failed")];
    const texts = [
      plain.text,
      failed.text,
      again.text,
      again.text,
      newEvent("skipped").text,
      newEvent("success", "").text,
      "{not json",
      '{"execution_id":"x","flow_id":null}',
    ];
    // On each node in turn: the publishing node must not matter.
    for (const [index, text] of texts.entries()) await publisher.publish(index % ports.length, text);
    // A cluster broadcasts each event to every node once.
    const inAnyOrder = [...texts].sort();
    await vi.waitFor(() => {
      expect(listener.received.map((received) => [...received].sort())).toEqual(ports.map(() => inAnyOrder));
    });
    const { code, last } = await relay.end();
    expect(code, relay.errors).toBe(0);
    const copies = texts.length * ports.length;
    expect(last).toMatchObject({
      message: "relay stopped",
      received: copies,
      duplicate: copies - texts.length,
      malformed: 2,
      without_flow: 1,
      skipped: 1,
      forwarded: 4,
      dropped: 0,
      reconnects: 0,
      waiting: 0,
      unsent: 0,
    });
    expect((await queued()).sort()).toEqual([plain.id, again.id, again.id, failed.id].sort());
  });

  it("sends depth 0, the execution as its own root, and the published outcome", async () => {
    await using relay = await start();
    using publisher = new Publisher(ports);
    const event = newEvent("of_another_kind");
    await publisher.publish(0, event.text);
    await relay.end();
    const [message, ...others] = await probe.drain();
    expect(others).toEqual([]);
    expect(JSON.parse(message?.Body ?? "")).toEqual(JSON.parse(event.text));
    expect(message?.MessageAttributes).toMatchObject({
      depth: { DataType: "Number", StringValue: "0" },
      root: { DataType: "String", StringValue: event.id },
    });
  });

  it.each(["SIGTERM", "SIGINT"] as const)(
    "%s while events arrive: every event that Valkey delivered reaches the queue",
    async (signal) => {
      await using relay = await start();
      using publisher = new Publisher(ports);
      const delivered: string[] = [];
      let isOver = false;
      const publishing = ports.map(async (_, node) => {
        while (!isOver) {
          const { id, text } = newEvent();
          // 0 subscribers: the relay has unsubscribed, and the reconciler would recover this event.
          if ((await publisher.publish(node, text)) > 0) delivered.push(id);
          else isOver = true;
          // In a cluster, the relay may be unsubscribed from one node while another still delivers.
          if (delivered.length === 300) relay.stop(signal);
        }
      });
      await Promise.all(publishing);
      const { code, last } = await relay.ended();
      expect(code, relay.errors).toBe(0);
      expect(delivered.length).toBeGreaterThan(300);
      const ids = await queued();
      expect(new Set(ids)).toEqual(new Set([...ids, ...delivered]));
      expect(ids.length).toBe(new Set(ids).size);
      expect(last).toMatchObject({ forwarded: ids.length, dropped: 0, unsent: 0, malformed: 0 });
    },
  );
});

describe("npm run relay", () => {
  it("does not start with an invalid environment, and lists every error", async () => {
    await using probe = await QueueProbe.start();
    const invalid = RelayProcess.subscribed({ url: new URL("http://x"), cluster: false }, probe, 1, {
      COMPLETIONS_QUEUE_URL: "",
    });
    await expect(invalid).rejects.toThrow(
      /VALKEY_URL is not a redis:\/\/[\s\S]*COMPLETIONS_QUEUE_URL is not set/,
    );
  });
});

import { describe, expect, it } from "vitest";
import { startValkey, startValkeyCluster } from "#local/valkey-server.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { dispatchOne, eventOf, family, portsOf, QueueProbe, stateOf } from "#test/support/dispatch.ts";
import { FlowFixture } from "#test/support/flow-fixture.ts";
import { connectTo } from "#test/support/valkey.ts";

describe("a node without the library", () => {
  async function check(valkey: Valkey): Promise<void> {
    await using queue = await QueueProbe.start();
    await ensureLibrary(valkey);
    const fixture = new FlowFixture(valkey);
    const { parent, children } = await family(fixture, 3);
    await fixture.finish(parent, "failed");
    for (const node of await valkey.primaries()) await node.call("function", "FLUSH", "SYNC");
    expect(await dispatchOne(portsOf(valkey, queue), eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(await Promise.all(children.map((child) => stateOf(fixture, child)))).toEqual(
      Array(3).fill("skipped"),
    );
    expect(await queue.drain()).toHaveLength(3);
  }

  it("gets it amid a dispatch (standalone)", async () => {
    await using server = await startValkey();
    const valkey = connectTo({ url: server.url, cluster: false });
    try {
      await check(valkey);
    } finally {
      valkey.close();
    }
  });

  it("gets it amid a dispatch (cluster)", async () => {
    await using cluster = await startValkeyCluster();
    const valkey = connectTo({ url: cluster.url, cluster: true });
    try {
      await check(valkey);
    } finally {
      valkey.close();
    }
  });

  it("fails the message when it cannot be loaded", async () => {
    await using server = await startValkey();
    const valkey = connectTo({ url: server.url, cluster: false });
    try {
      await using queue = await QueueProbe.start();
      await ensureLibrary(valkey);
      const fixture = new FlowFixture(valkey);
      const { parent, children } = await family(fixture, 2);
      await fixture.finish(parent, "failed");
      await valkey.call("function", "FLUSH", "SYNC");
      const ports = portsOf(valkey, queue, {
        ensureLibrary: async () => {
          await valkey.call("function", "LOAD", "#!lua name=flowfabric\nnot lua");
        },
      });
      const errors = await dispatchOne(ports, eventOf(parent.id, fixture.flow.id));
      expect(errors).toMatchObject([{ name: "ValkeyError" }, { name: "ValkeyError" }]);
      expect(await Promise.all(children.map((child) => stateOf(fixture, child)))).toEqual(
        Array(2).fill("waiting_children"),
      );
      expect(await queue.drain()).toEqual([]);
    } finally {
      valkey.close();
    }
  });
});

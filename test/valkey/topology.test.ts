import { describe, expect, it } from "vitest";
import { type NodeAddress, nameOf, seedNodes } from "#shared/valkey/address.ts";
import { Topology } from "#shared/valkey/topology.ts";

const ASKED: NodeAddress = { host: "endpoint.example", port: 7000 };
const ID = "07c37dfeb235213a872192d90877d0cd55635b91";

function primaryIn(...entry: unknown[]): NodeAddress | undefined {
  return new Topology([[0, 16_383, entry]], ASKED).primaryOf(1);
}

describe("Topology", () => {
  it.each([
    ["an IPv4 address", ["10.0.0.1", 7001, ID, []], { host: "10.0.0.1", port: 7001 }],
    ["an IPv6 address", ["2001:db8::1", 7001, ID, []], { host: "2001:db8::1", port: 7001 }],
    ["a hostname", ["a.example", 7001, ID, ["ip", "10.0.0.1"]], { host: "a.example", port: 7001 }],
    ["null: the host that was asked", [null, 7001, ID, []], { ...ASKED, port: 7001 }],
    ["an empty host: the host that was asked", ["", 7001, ID], { ...ASKED, port: 7001 }],
    [
      "an unknown hostname: its address",
      ["?", 7001, ID, ["ip", "10.0.0.1"]],
      { host: "10.0.0.1", port: 7001 },
    ],
  ])("reads %s", (_, entry, expected) => {
    expect(primaryIn(...entry)).toEqual(expected);
  });

  it("skips a node without an address or port, and throws if there is no other", () => {
    for (const entry of [
      ["?", 7001, ID, []],
      ["?", 7001, ID],
      [7, 7001],
      ["10.0.0.1", 0],
      ["10.0.0.1"],
      null,
    ]) {
      expect(() => new Topology([[0, 16_383, entry]], ASKED)).toThrow(
        /endpoint\.example:7000 lists no nodes/,
      );
    }
    for (const reply of [[], null, "text", [7], [[0, 16_383]]]) {
      expect(() => new Topology(reply, ASKED)).toThrow("lists no nodes");
    }
  });

  it("lists primaries and all nodes once, and finds the primary of each slot", () => {
    const [a, b, c] = ["a", "b", "c"].map((host) => ({ host, port: 7001 }));
    const topology = new Topology(
      [
        [0, 99, ["a", 7001], ["c", 7001]],
        [100, 199, ["b", 7001]],
        [300, 300, ["a", 7001], ["c", 7001]],
      ],
      ASKED,
    );
    expect(topology.primaries).toEqual([a, b]);
    expect(topology.nodes).toEqual([a, c, b]);
    expect([0, 99, 100, 199, 200, 300, 301].map((slot) => topology.primaryOf(slot)?.host)).toEqual([
      ...["a", "a", "b", "b", undefined, "a", undefined],
    ]);
  });
});

describe("node addresses", () => {
  it("are the URL's node with the default port, and the others, each once", () => {
    const moreNodes = [{ host: "b", port: 6380 }, ASKED, { host: "::1", port: 6379 }];
    expect(seedNodes({ url: new URL("redis://[::1]"), cluster: true, moreNodes })).toEqual([
      { host: "::1", port: 6379 },
      { host: "b", port: 6380 },
      ASKED,
    ]);
    expect(nameOf({ host: "::1", port: 6379 })).toBe("[::1]:6379");
    expect(nameOf(ASKED)).toBe("endpoint.example:7000");
  });
});

import { describe, expect, it } from "vitest";
import { parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { LANES_KEY } from "#shared/contract/keys.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import { sweep } from "#shared/reconcile/sweep.ts";
import { LANE } from "#test/support/flow-fixture.ts";
import { KINDS, standFor } from "#test/support/reconcile.ts";
import { RoundCounter } from "#test/support/round-counter.ts";

const GPU = unwrap(parseLaneId("gpu"));

describe.each(KINDS)("round trips of a sweep (%s)", (kind) => {
  const stand = standFor(kind);
  const { partitions } = new PartitionRouter();

  it("256 empty partitions: twice the number of nodes at most, the lease and the lanes included", async () => {
    const nodes = (await stand().valkey.primaries()).length;
    await stand().valkey.call("sadd", LANES_KEY, LANE, GPU);
    const counter = new RoundCounter(stand().valkey);
    const ports = stand().ports(partitions, { valkey: counter, likelyLanes: [LANE, GPU] });
    expect(await sweep(ports)).toMatchObject({ state: "complete", scanned: 0 });
    expect(counter.rounds).toBe(2);
    expect(counter.rounds).toBeLessThanOrEqual(2 * nodes);
  });

  it("a lane that was recorded since costs one more", async () => {
    await stand().valkey.call("sadd", LANES_KEY, GPU);
    const counter = new RoundCounter(stand().valkey);
    await sweep(stand().ports(partitions, { valkey: counter }));
    expect(counter.rounds).toBe(3);
  });

  it("what waits in many partitions shares them", async () => {
    const flows = [];
    for (let index = 0; index < 20; index += 1) flows.push(await stand().submitted("up>child"));
    const counter = new RoundCounter(stand().valkey);
    expect(await sweep(stand().ports(flows, { valkey: counter }))).toMatchObject({ scanned: 20 });
    // The beginning, the executions, their edges, the dependencies, the upstreams, the end.
    expect(counter.rounds).toBe(6);
  });
});

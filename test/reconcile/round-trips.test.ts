import { describe, expect, it } from "vitest";
import { parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { LANES_KEY } from "#shared/contract/keys.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import { selectTasks } from "#shared/reconcile/select-tasks.ts";
import { sweep } from "#shared/reconcile/sweep.ts";
import { LANE } from "#test/support/flow-fixture.ts";
import { readyPorts } from "#test/support/ready.ts";
import { SERVER_KINDS, useReconcilerServers } from "#test/support/reconcile.ts";
import { RoundCounter } from "#test/support/round-counter.ts";

const GPU = unwrap(parseLaneId("gpu"));

describe.each(SERVER_KINDS)("round trips of a sweep (%s)", (kind) => {
  const servers = useReconcilerServers(kind);
  const { partitions } = new PartitionRouter();

  it("256 empty partitions and two lanes take two, lease and lanes included", async () => {
    await servers().valkey.call("sadd", LANES_KEY, LANE, GPU);
    const counter = new RoundCounter(servers().valkey);
    const ports = servers().ports(partitions, { valkey: counter, likelyLanes: [LANE, GPU] });
    expect(await sweep(ports)).toMatchObject({ state: "complete", scanned: 0 });
    expect(counter.rounds).toBe(2);
  });

  it("all tasks share them: 256 empty partitions and four lanes take at most three", async () => {
    const lanes = ["a", "b", "c", "d"].map((name) => unwrap(parseLaneId(name)));
    await servers().valkey.call("sadd", LANES_KEY, ...lanes);
    const readyQueues = readyPorts(lanes);
    const tasks = selectTasks(
      undefined,
      false,
      { retentionMs: 1_000, flowEnds: { send: () => Promise.resolve([]) } },
      readyQueues,
    );
    expect(tasks.length).toBeGreaterThan(3);
    const counter = new RoundCounter(servers().valkey);
    const ports = servers().ports(partitions, {
      tasks,
      readyQueues,
      valkey: counter,
      lanes: [],
      likelyLanes: lanes,
    });
    expect(await sweep(ports)).toMatchObject({ state: "complete" });
    expect(counter.rounds).toBeLessThanOrEqual(3);
  });

  it("a recorded lane that was not expected costs one more", async () => {
    await servers().valkey.call("sadd", LANES_KEY, GPU);
    const counter = new RoundCounter(servers().valkey);
    await sweep(servers().ports(partitions, { valkey: counter }));
    expect(counter.rounds).toBe(3);
  });

  it("executions in many partitions share them", async () => {
    const flows = [];
    for (let index = 0; index < 20; index += 1) flows.push(await servers().submit("up>child"));
    const counter = new RoundCounter(servers().valkey);
    expect(await sweep(servers().ports(flows, { valkey: counter }))).toMatchObject({ scanned: 20 });
    // Lease and pages, executions, edges, dependencies, upstreams, release.
    expect(counter.rounds).toBe(6);
  });
});

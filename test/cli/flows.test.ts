/** The list of flows, on servers of its own: it shows all flows of a deployment. */

import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { startValkey, startValkeyCluster, type ValkeyServer } from "#local/valkey-server.ts";
import type { FlowEntry } from "#operate/flows/flow-entry.ts";
import { cancelFlow } from "#shared/contract/graph.ts";
import { type FlowId, type Partition, parseFlowId, unwrap } from "#shared/contract/ids.ts";
import { type ExecKeys, PARTITION_CONFIG_KEY } from "#shared/contract/keys.ts";
import { DEFAULT_PARTITION_CONFIG, PartitionRouter } from "#shared/contract/partitions.ts";
import { createFlow } from "#shared/contract/submission.ts";
import type { Environment } from "#shared/runtime/environment.ts";
import { valueOrThrow } from "#shared/valkey/batches.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { parseOutput, sluice } from "#test/cli/support.ts";
import { FlowFixture, LANE } from "#test/support/flow-fixture.ts";
import { connectTo, onEveryPrimary } from "#test/support/valkey.ts";

const ROUTER = new PartitionRouter(DEFAULT_PARTITION_CONFIG);
const HOUR_MS = 3_600_000;
const FUTURE = 4_000_000_000_000;

interface Page {
  readonly flows: readonly FlowEntry[];
  readonly counts?: Readonly<Record<string, number>>;
  readonly next?: string;
}

const KINDS = [
  { name: "standalone", start: () => startValkey() },
  { name: "cluster", start: () => startValkeyCluster(3) },
] as const;

describe.each(KINDS)("sluice flows on $name", ({ name: kind, start }) => {
  let server: ValkeyServer;
  let valkey: Valkey;
  let environment: Environment;
  beforeAll(async () => {
    server = await start();
    valkey = connectTo({ url: server.url, cluster: kind === "cluster" });
    environment = { VALKEY_URL: server.url.href, VALKEY_CLUSTER_MODE: String(kind === "cluster") };
  }, 60_000);
  afterAll(async () => {
    valkey.close();
    await server.stop();
  });
  beforeEach(async () => {
    await onEveryPrimary(valkey, "flushall");
    await ensureLibrary(valkey);
    await valkey.call("hset", PARTITION_CONFIG_KEY, "num_flow_partitions", ROUTER.numFlowPartitions);
  });

  const newFlow = (id: FlowId = newId()) => new FlowFixture(valkey, LANE, ROUTER, 11, id);

  async function list(...args: string[]): Promise<Page & { readonly code: number }> {
    const { code, stdout, stderr } = await sluice(["flows", "--json", ...args], { environment });
    expect(stderr).toBe("");
    return { ...parseOutput("flows", stdout), code };
  }

  const idsOf = ({ flows }: Page): string[] => flows.map(({ flow_id }) => flow_id);

  /** Reads all pages. */
  async function listAll(...args: string[]): Promise<string[]> {
    const ids: string[] = [];
    let cursor: string | undefined;
    do {
      const page = await list(...args, ...(cursor === undefined ? [] : ["--cursor", cursor]));
      ids.push(...idsOf(page));
      cursor = page.next;
    } while (cursor !== undefined);
    return ids;
  }

  /** Creates flows without members, many at once. Returns their ids in the order of the list. */
  async function createFlows(ids: readonly FlowId[]): Promise<string[]> {
    const flows = ids.map((id) => newFlow(id));
    const results = await valkey.pipelined(
      flows.map(({ flow, index }) => createFlow(flow, index, "dag", "tests", 0)),
    );
    for (const result of results) valueOrThrow(result);
    return inOrder(flows);
  }

  async function inOrder(flows: readonly FlowFixture[]): Promise<string[]> {
    const places: { id: string; createdAt: number }[] = [];
    for (const { flow, read } of flows.map((one) => ({ flow: one.flow, read: one.read.bind(one) }))) {
      places.push({ id: flow.id, createdAt: Number(await read("hget", flow.core, "created_at")) });
    }
    return places
      .sort((left, right) => right.createdAt - left.createdAt || (left.id < right.id ? 1 : -1))
      .map(({ id }) => id);
  }

  test("shows the flows of all partitions, the newest first, each once in pages of any size", async () => {
    const expected = await createFlows(Array.from({ length: 15 }, newId));
    for (const limit of ["1", "4", "15", "16"]) {
      expect(await listAll("--limit", limit), `limit ${limit}`).toEqual(expected);
    }
    expect(await list("--limit", "15")).not.toHaveProperty("next");
    expect(await list("--limit", "14")).toHaveProperty("next");
  });

  test("pages through flows of one partition and one millisecond", async () => {
    const ids = idsIn(42 as Partition, 12);
    await createFlows(ids);
    for (const id of ids) {
      const { flow, index } = newFlow(id);
      await newFlow(id).read("hset", flow.core, "created_at", 5_000);
      await newFlow(id).read("zadd", index.flowsCreated, 5_000, id);
    }
    const expected = [...ids].sort().reverse();
    for (const limit of ["1", "4", "12"]) expect(await listAll("--limit", limit)).toEqual(expected);
  });

  test("counts the members of each flow, and the flows, exactly", async () => {
    const [done, failed, cancelled, running] = [newFlow(), newFlow(), newFlow(), newFlow()];
    await done.finish(await done.member(), "success");
    for (const outcome of ["success", "failed"] as const) await failed.finish(await failed.member(), outcome);
    await cancelled.cancel(await cancelled.member());
    await cancelled.done(cancelFlow(cancelled.flow, cancelled.index, "not needed", "cancel_all", 0, 1_000));
    const [first, second] = [await running.member(), await running.member()];
    await running.edge(first, second);
    await running.claim(first);
    await running.member();
    await running.member({ delayUntil: FUTURE });
    await running.finish(await running.member(), "failed");
    const page = await list();
    expect(page.counts).toEqual({ running: 1, completed: 1, failed: 1, cancelled: 1, uncounted: 0 });
    const found = new Map(page.flows.map((flow) => [flow.flow_id, flow]));
    expect(found.size).toBe(4);
    expect(found.get(done.flow.id)).toMatchObject({
      state: "completed",
      members: { total: 1, completed: 1 },
    });
    expect(found.get(done.flow.id)?.ended_at).toBeGreaterThan(0);
    expect(found.get(failed.flow.id)).toMatchObject({
      state: "failed",
      members: { total: 2, completed: 1, failed: 1, waiting: 0 },
    });
    expect(found.get(cancelled.flow.id)).toMatchObject({
      state: "cancelled",
      members: { total: 1, cancelled: 1 },
    });
    expect(found.get(running.flow.id)).toMatchObject({
      state: "running",
      members: { total: 5, active: 1, waiting_children: 1, waiting: 1, delayed: 1, failed: 1 },
    });
    expect(found.get(running.flow.id)).not.toHaveProperty("ended_at");
    for (const [state, flow] of Object.entries({ completed: done, failed, cancelled, running })) {
      expect(idsOf(await list("--state", state)), state).toEqual([flow.flow.id]);
    }
  });

  test("finds flows by a part of their name, in any case, and by their creation", async () => {
    const ids = Array.from({ length: 3 }, newId);
    const expected = await createFlows(ids);
    const [first, second, third] = ids.map((id) => newFlow(id)) as [FlowFixture, FlowFixture, FlowFixture];
    await first.read("hset", first.flow.core, "workflow_name", "Nightly report");
    await second.read("hset", second.flow.core, "workflow_name", "[nightly] load");
    expect(idsOf(await list("--name", "NIGHTLY"))).toEqual(expected.filter((id) => id !== third.flow.id));
    await third.read("hset", third.flow.core, "workflow_name", "ÄRGER A");
    expect(idsOf(await list("--name", "ÄrGER a"))).toEqual([third.flow.id]);
    const narrow = await list("--name", "[nightly]");
    expect(idsOf(narrow)).toEqual([second.flow.id]);
    expect(narrow.counts).toMatchObject({ running: 1 });
    const old = Date.now() - 2 * HOUR_MS;
    await third.read("hset", third.flow.core, "created_at", old);
    await third.read("zadd", third.index.flowsCreated, old, third.flow.id);
    expect(idsOf(await list("--since", "1h"))).toEqual(expected.filter((id) => id !== third.flow.id));
    expect(idsOf(await list("--since", "3h"))).toHaveLength(3);
    expect(idsOf(await list("--since", new Date(old).toISOString()))).toHaveLength(3);
    expect(idsOf(await list("--since", new Date(old + 1).toISOString()))).toHaveLength(2);
  });

  test("finds an old flow behind more flows than one call looks at", async () => {
    const ids = idsIn(7 as Partition, 1_200);
    const expected = await createFlows(ids);
    const oldest = newFlow(unwrap(parseFlowId(expected.at(-1))));
    await oldest.read("hset", oldest.flow.core, "workflow_name", "the oldest");
    const page = await list("--name", "the oldest", "--limit", "1");
    expect(idsOf(page)).toEqual([oldest.flow.id]);
    expect(page.counts).toMatchObject({ running: 1 });
    expect((await list("--limit", "1")).counts).toMatchObject({ running: 1_200 });
  });

  test("shows flows that another library created, in their place", async () => {
    const flows = [newFlow(), newFlow(), newFlow()] as const;
    for (const one of flows) await one.finish(await one.member(), "success");
    const [, foreign] = flows;
    await foreign.read("zrem", foreign.index.flowsCreated, foreign.flow.id);
    await foreign.read("del", foreign.flow.summary);
    expect(await listAll("--limit", "1")).toEqual(await inOrder(flows));
    const page = await list();
    expect(page.counts).toEqual({ running: 0, completed: 2, failed: 0, cancelled: 0, uncounted: 1 });
    expect(page.flows.map(({ state, members }) => [state, members.completed])).toEqual([
      ["completed", 1],
      ["completed", 1],
      ["completed", 1],
    ]);
    expect(idsOf(await list("--state", "running"))).toEqual([]);
  });

  test("does not show the rest of a deleted flow", async () => {
    const flow = newFlow();
    await flow.createFlow();
    await flow.read("del", flow.flow.core);
    expect(await list()).toMatchObject({ flows: [], counts: { running: 0 } });
  });

  /** Lets a flow look as if nothing in it had changed for a time. */
  async function age(fixture: FlowFixture, members: readonly ExecKeys[], ms: number): Promise<void> {
    const at = Date.now() - ms;
    for (const key of [fixture.flow.core, ...members.map(({ core }) => core)]) {
      await fixture.read("hset", key, "last_mutation_at", at);
    }
    await fixture.read("hset", fixture.flow.core, "created_at", at);
    await fixture.read("zadd", fixture.index.flowsCreated, at, fixture.flow.id);
  }

  test("shows a flow as stuck when nothing in it can move", async () => {
    const flow = newFlow();
    const [first, second] = [await flow.member(), await flow.member()];
    await flow.edge(first, second);
    await flow.finish(first, "success");
    // Its completion may be under way.
    expect(await list("--stuck")).toMatchObject({ flows: [], code: 0 });
    await age(flow, [first, second], 5 * 60_000);
    expect(await list("--stuck")).toMatchObject({
      flows: [{ flow_id: flow.flow.id, stuck: "nothing_can_move" }],
      code: 1,
    });
    const third = await flow.member();
    await age(flow, [third], 5 * 60_000);
    expect(await list("--stuck")).toMatchObject({ flows: [], code: 0 });
    expect(await list()).toMatchObject({ flows: [{ flow_id: flow.flow.id }], code: 0 });
  });

  test("shows a flow as stuck when nothing has changed for long, unless it waits for a time", async () => {
    const [unserved, delayed] = [newFlow(), newFlow()];
    const waiting = await unserved.member();
    await age(unserved, [waiting], 2 * HOUR_MS);
    const later = await delayed.member({ delayUntil: FUTURE });
    await age(delayed, [later], 2 * HOUR_MS);
    expect(await list("--stuck")).toMatchObject({
      flows: [{ flow_id: unserved.flow.id, stuck: "unchanged" }],
    });
    expect(idsOf(await list("--stuck", "--unchanged-for", "3h"))).toEqual([]);
  });

  test("pages through stuck flows, among others", async () => {
    const stuck: FlowFixture[] = [];
    for (let number = 0; number < 5; number += 1) {
      const flow = newFlow();
      await age(flow, [await flow.member()], (2 + number) * HOUR_MS);
      stuck.push(flow);
      await newFlow().member();
    }
    const expected = await inOrder(stuck);
    for (const limit of ["1", "2", "5"]) {
      expect(await listAll("--stuck", "--limit", limit), `limit ${limit}`).toEqual(expected);
    }
  });

  test("shows a flow as stuck when its submission stopped halfway", async () => {
    const flow = newFlow();
    const root = await flow.member({ delayUntil: FUTURE });
    await flow.read("hset", flow.flow.core, "submission_tasks", "1");
    await age(flow, [root], 5 * 60_000);
    expect(await list("--stuck")).toMatchObject({ flows: [{ stuck: "submission_incomplete" }] });
    await flow.read("hset", flow.flow.core, "submission_completed_at", "1");
    expect(idsOf(await list("--stuck"))).toEqual([]);
  });

  test("prints a table, the counts and the next page for a person", async () => {
    const flow = newFlow();
    await flow.finish(await flow.member(), "success");
    await flow.read("hset", flow.flow.core, "workflow_name", "nightly");
    await newFlow().createFlow();
    const { stdout, code } = await sluice(["flows", "--limit", "1", "--name", "night"], { environment });
    expect(code).toBe(0);
    expect(stdout).toMatch(/^flow +name +created +state +tasks +done +failed +skipped +open\n/);
    expect(stdout).toMatch(new RegExp(`\\n${flow.flow.id} +nightly +\\S+Z +completed +1 +1 +0 +0 +0\\n`));
    expect(stdout).toContain("1 flow in all states: 0 running, 1 completed, 0 failed, 0 cancelled");
    const more = await sluice(["flows", "--limit", "1"], { environment });
    expect(more.stdout).toMatch(/more: sluice flows --cursor \d+\.[0-9a-f-]{36}\.l with the same options\n$/);
  });

  test.each([
    [["--cursor", "yesterday"], "is not a cursor of this command"],
    [["--stuck", "--state", "failed"], "only running flows can be stuck"],
    [["--since", "yesterday"], "Expected an age such as 2h"],
    [["--limit", "0"], "limit: Too small"],
  ])("refuses %j", async (args, message) => {
    const { code, stderr } = await sluice(["flows", ...args], { environment });
    expect(code).toBe(2);
    expect(stderr).toContain(message);
  });
});

function newId(): FlowId {
  return unwrap(parseFlowId(randomUUID()));
}

/** Flow ids of one partition. */
function idsIn(partition: Partition, count: number): FlowId[] {
  const ids: FlowId[] = [];
  while (ids.length < count) {
    const id = newId();
    if (ROUTER.flowPartition(id) === partition) ids.push(id);
  }
  return ids;
}

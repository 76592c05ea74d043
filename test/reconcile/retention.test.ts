import { describe, expect, it } from "vitest";
import { submitFlow } from "#sdk/submission/submit.ts";
import type { Pipelines, ValkeyArgument, ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";
import { replayExecution } from "#shared/contract/graph.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { addExecutionToFlow, createExecution } from "#shared/contract/submission.ts";
import { dispatch } from "#shared/dispatch/dispatcher.ts";
import { PublishError } from "#shared/errors.ts";
import type { BatchSender, QueueEntry } from "#shared/queue/batch-sender.ts";
import type { FlowEnd } from "#shared/reconcile/flow-ends.ts";
import { LEASE_KEY } from "#shared/reconcile/lease.ts";
import { sweep } from "#shared/reconcile/sweep.ts";
import { retention } from "#shared/reconcile/tasks/retention.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { RecordingPublisher, workflowOf } from "#test/submission/fixture.ts";
import { eventOf } from "#test/support/dispatch.ts";
import { type FlowFixture, LANE, ROUTER } from "#test/support/flow-fixture.ts";
import { type ReconcilerServers, SERVER_KINDS, useReconcilerServers } from "#test/support/reconcile.ts";
import { keysOf } from "#test/support/valkey.ts";

const HOUR_MS = 3_600_000;
const RETENTION_MS = 168 * HOUR_MS;
const KEEP = retention({ retentionMs: RETENTION_MS, flowEnds: undefined });

/** A flow of three executions, of which one is skipped, that ended so long ago. */
async function endedFlow(servers: ReconcilerServers, agoMs: number, policyJson = ""): Promise<FlowFixture> {
  const fixture = servers.fixture();
  const parent = await fixture.member({ payload: "in", policyJson });
  const child = await fixture.member();
  const edge = await fixture.edge(parent, child);
  await fixture.finish(parent, "failed");
  await fixture.done(fixture.resolution(edge, "failed"));
  await fixture.finish(await fixture.member(), "success", "a result");
  await backdate(fixture, agoMs);
  return fixture;
}

async function backdate(fixture: FlowFixture, agoMs: number): Promise<void> {
  const endedAt = Date.now() - agoMs;
  for (const key of [fixture.index.flowsEnded, fixture.index.flowEndsUnsent])
    await fixture.read("zadd", key, "XX", endedAt, fixture.flow.id);
}

async function membersOf(fixture: FlowFixture): Promise<ExecKeys[]> {
  const ids = (await fixture.read("smembers", fixture.flow.members)) as ExecKeys["id"][];
  return ids.map((id) => ROUTER.execKeys(id));
}

async function succeededMember(fixture: FlowFixture): Promise<ExecKeys> {
  for (const keys of await membersOf(fixture)) {
    if ((await fixture.read("hget", keys.core, "terminal_outcome")) === "success") return keys;
  }
  throw new Error("no member succeeded");
}

/** All keys of the partition, without the times of the lanes' last claims: those are of lanes, and no execution's. */
const keysLeft = async ({ valkey, flow, index }: FlowFixture) =>
  (await keysOf(valkey, flow.partition)).filter((key) => key !== index.laneClaims).sort();

/** Fails everything after a number of commands, as if the process died. The last pipeline may be cut in the middle. */
class Dying implements Pipelines {
  hasDied = false;
  #left: number;
  readonly #valkey: Valkey;

  constructor(valkey: Valkey, commands: number) {
    this.#valkey = valkey;
    this.#left = commands;
  }

  async pipelined(commands: readonly ValkeyCommand[]): Promise<ValkeyResult[]> {
    const sent = commands.slice(0, this.#left);
    this.#left -= sent.length;
    if (sent.length === commands.length) return this.#valkey.pipelined(commands);
    this.hasDied = true;
    await this.#valkey.pipelined(sent);
    return commands.map(() => ({ ok: false, error: new Error("the process died") }));
  }

  call(name: string, ...args: ValkeyArgument[]): Promise<unknown> {
    return this.hasDied ? Promise.reject(new Error("the process died")) : this.#valkey.call(name, ...args);
  }
}

/** Runs something before the first call of a function. */
class Interrupted implements Pipelines {
  readonly #valkey: Valkey;
  readonly #functionName: string;
  readonly #before: () => Promise<void>;
  #isDone = false;

  constructor(valkey: Valkey, functionName: string, before: () => Promise<void>) {
    this.#valkey = valkey;
    this.#functionName = functionName;
    this.#before = before;
  }

  async pipelined(commands: readonly ValkeyCommand[]): Promise<ValkeyResult[]> {
    if (!this.#isDone && commands.some(({ args }) => args[0] === this.#functionName)) {
      this.#isDone = true;
      await this.#before();
    }
    return this.#valkey.pipelined(commands);
  }

  call(name: string, ...args: ValkeyArgument[]): Promise<unknown> {
    return this.#valkey.call(name, ...args);
  }
}

describe.each(SERVER_KINDS)("retention (%s)", (kind) => {
  const servers = useReconcilerServers(kind);
  const run = (flows: readonly FlowFixture[], task = KEEP, valkey?: Pipelines & Pick<Valkey, "call">) => {
    const ports = servers().ports(flows, { tasks: [task], ...(valkey === undefined ? {} : { valkey }) });
    return sweep(ports).then((report) => ({ report, telemetry: ports.telemetry }));
  };

  it("deletes a flow after its retention, and leaves only the mark", async () => {
    const flow = await endedFlow(servers(), RETENTION_MS + HOUR_MS);
    const { report, telemetry } = await run([flow]);
    expect(report.state).toBe("complete");
    expect(await keysLeft(flow)).toEqual([flow.flow.purged]);
    expect(telemetry.counts.get(METRICS.flowsPurged)).toBe(1);
    expect(telemetry.counts.get(METRICS.executionsPurged)).toBe(3);
    expect(telemetry.gauges.get(METRICS.flowsRetained)).toBe(1);
    expect((await run([flow])).telemetry.gauges.get(METRICS.flowsRetained)).toBe(0);
  });

  it("changes nothing before, or without a retention", async () => {
    const [recent, old] = [
      await endedFlow(servers(), RETENTION_MS - HOUR_MS),
      await endedFlow(servers(), 50 * RETENTION_MS),
    ];
    const before = [await recent.snapshot(), await old.snapshot()];
    const never = await run([recent, old], retention({ retentionMs: 0, flowEnds: undefined }));
    expect(await old.snapshot()).toEqual(before[1]);
    expect(never.telemetry.gauges.get(METRICS.flowsRetained)).toBe(2);
    await run([recent]);
    expect(await recent.snapshot()).toEqual(before[0]);
  });

  it.each([
    [RETENTION_MS + 2 * HOUR_MS, true],
    [RETENTION_MS - 2 * HOUR_MS, false],
  ])("a member's retention of %i ms prolongs that of its flow: %s", async (ms, isKept) => {
    const policy = JSON.stringify({ stream_policy: { retention_ttl_ms: ms } });
    const flow = await endedFlow(servers(), RETENTION_MS + HOUR_MS, policy);
    for (let time = 0; time < 2; time += 1) await run([flow]);
    expect(await flow.read("exists", flow.flow.core)).toBe(isKept ? 1 : 0);
    if (!isKept) return;
    await flow.read("hset", flow.flow.summary, "retained_until", "1");
    await backdate(flow, RETENTION_MS + 3 * HOUR_MS);
    await run([flow]);
    expect(await keysLeft(flow)).toEqual([flow.flow.purged]);
  });

  it("completes a purge that died after any command", async () => {
    for (let commands = 0; ; commands += kind === "cluster" ? 3 : 1) {
      const flow = await endedFlow(servers(), RETENTION_MS + HOUR_MS);
      const valkey = new Dying(servers().valkey, commands);
      await run([flow], KEEP, valkey).catch((error: unknown) => {
        if (!valkey.hasDied) throw error;
      });
      // The lease of the dead run expires.
      await servers().valkey.call("del", LEASE_KEY);
      if (!valkey.hasDied) {
        expect(commands).toBeGreaterThan(10);
        break;
      }
      await run([flow]);
      expect(await keysLeft(flow), `after ${commands} commands`).toEqual([flow.flow.purged]);
    }
  });

  it("keeps a flow whose member is replayed at the last moment", async () => {
    const flow = await endedFlow(servers(), RETENTION_MS + HOUR_MS);
    const keys = await succeededMember(flow);
    const valkey = new Interrupted(servers().valkey, "sluice_begin_purge", async () => {
      await flow.done(replayExecution(keys, flow.index, LANE, [], 0));
    });
    const before = (await keysLeft(flow)).filter((key) => key.startsWith("ff:exec"));
    await run([flow], KEEP, valkey);
    expect((await keysLeft(flow)).filter((key) => key.startsWith("ff:exec"))).toEqual(
      [...new Set([...before, keys.leaseHistory])].sort(),
    );
    expect(await flow.read("exists", flow.flow.purged)).toBe(0);
    await flow.finish(keys, "success");
    await backdate(flow, RETENTION_MS + HOUR_MS);
    await run([flow]);
    expect(await keysLeft(flow)).toEqual([flow.flow.purged]);
  });

  it("deletes a flow of many members page by page", async () => {
    const fixture = servers().fixture();
    const first = await fixture.member();
    const members = Array.from({ length: 1_300 }, () => fixture.newExecution());
    await servers().valkey.pipelined(
      members.flatMap((keys) => [
        createExecution(fixture.creation({ keys })),
        addExecutionToFlow(fixture.flow, fixture.index, keys, 0),
      ]),
    );
    await Promise.all([first, ...members].map((keys) => fixture.cancel(keys)));
    await backdate(fixture, RETENTION_MS + HOUR_MS);
    const { report, telemetry } = await run([fixture]);
    expect(report.state).toBe("complete");
    expect(telemetry.counts.get(METRICS.executionsPurged)).toBe(1_301);
    expect(await keysLeft(fixture)).toEqual([fixture.flow.purged]);
  });

  it("deletes all of many members, although deletions leave gaps in their set", async () => {
    const fixture = servers().fixture();
    const member = await fixture.member();
    // Members without a record: FlowFabric's trimmer deleted them.
    const gone = Array.from({ length: 20_000 }, () => fixture.newExecution().id);
    await fixture.read("sadd", fixture.flow.members, ...gone);
    await fixture.cancel(member);
    await backdate(fixture, RETENTION_MS + HOUR_MS);
    expect((await run([fixture])).report.state).toBe("complete");
    expect(await keysLeft(fixture)).toEqual([fixture.flow.purged]);
  });

  it("corrects counts that miss an open member, and keeps the flow", async () => {
    const flow = await endedFlow(servers(), RETENTION_MS + HOUR_MS);
    const open = await flow.execution();
    await flow.read("sadd", flow.flow.members, open.id);
    await flow.read("hset", open.core, "flow_id", flow.flow.id);
    await run([flow]);
    expect(await flow.hash(flow.flow.summary)).toMatchObject({ members_open: "1", total_members: "4" });
    await flow.cancel(open);
    await backdate(flow, RETENTION_MS + HOUR_MS);
    await run([flow]);
    expect(await keysLeft(flow)).toEqual([flow.flow.purged]);
  });

  it("deletes executions outside any flow, and starts the counts of flows that have none", async () => {
    const fixture = servers().fixture();
    const [solo, recent] = [await fixture.execution(), await fixture.execution()];
    const old = await endedFlow(servers(), 0);
    await old.read("del", old.flow.summary);
    await old.read("zrem", old.index.flowsEnded, old.flow.id);
    const longAgo = Date.now() - RETENTION_MS - HOUR_MS;
    const terminal = fixture.index.lane(LANE).terminal;
    for (const keys of [solo, recent]) await fixture.finish(keys, "success", "a result");
    await fixture.read("hset", solo.core, "completed_at", longAgo);
    await fixture.read("zadd", terminal, longAgo, solo.id);
    for (const keys of await membersOf(old)) {
      await old.read("hset", keys.core, "completed_at", longAgo);
      await old.read("zadd", old.index.lane(LANE).terminal, longAgo, keys.id);
    }
    const { telemetry } = await run([fixture, old]);
    expect((await keysLeft(fixture)).filter((key) => key.includes(solo.id))).toEqual([]);
    expect(await fixture.read("exists", recent.core)).toBe(1);
    expect(telemetry.counts.get(METRICS.executionsPurged)).toBe(1);
    expect(await old.read("zscore", old.index.flowsEnded, old.flow.id)).toBe(String(longAgo));
    await run([fixture, old]);
    expect(await keysLeft(old)).toEqual([old.flow.purged]);
  });

  it("a late completion of a purged flow is acknowledged and counted, a late submission is refused", async () => {
    const flow = await servers().submit("up>down");
    const { fixture } = flow;
    await flow.end("up", "failed");
    const event = eventOf(flow.keys("up").id, fixture.flow.id);
    await fixture.cancel(flow.keys("down"));
    await backdate(fixture, RETENTION_MS + HOUR_MS);
    await run([fixture]);
    expect(await keysLeft(fixture)).toEqual([fixture.flow.purged]);
    const ports = { ...servers().ports([fixture]), maxCascadeDepth: 50 };
    expect(await dispatch(ports, [event])).toEqual([{ kind: "stopped", gate: "flow_purged" }]);
    expect(ports.telemetry.counts.get(METRICS.flowPurged)).toBe(1);
    const completions = new RecordingPublisher();
    await expect(
      submitFlow({ valkey: servers().valkey, router: ROUTER, completions }, workflowOf("up>down"), {
        flowId: fixture.flow.id,
      }),
    ).rejects.toMatchObject({ retryable: false, message: expect.stringContaining("another flow id") });
    expect(await keysLeft(fixture)).toEqual([fixture.flow.purged]);
  });
});

describe("messages about flows that ended", () => {
  const servers = useReconcilerServers("standalone");
  const HOURS = { retentionMs: RETENTION_MS };

  class Outbox implements Pick<BatchSender, "send"> {
    readonly sent: FlowEnd[] = [];
    isClosed = false;

    send(entries: readonly QueueEntry[]): ReturnType<BatchSender["send"]> {
      if (this.isClosed)
        return Promise.resolve(
          entries.map(() => ({ ok: false, error: new PublishError("refused", "refused") })),
        );
      this.sent.push(...entries.map(({ MessageBody: body }) => JSON.parse(body ?? "") as FlowEnd));
      return Promise.resolve(entries.map(() => ({ ok: true })));
    }
  }

  const run = async (flow: FlowFixture, flowEnds: Outbox, valkey?: Pipelines & Pick<Valkey, "call">) =>
    sweep(
      servers().ports([flow], {
        tasks: [retention({ ...HOURS, flowEnds })],
        ...(valkey === undefined ? {} : { valkey }),
      }),
    );

  it("are sent once for each end, with the counts", async () => {
    const flow = await endedFlow(servers(), HOUR_MS);
    const outbox = new Outbox();
    for (let time = 0; time < 2; time += 1)
      expect(await run(flow, outbox)).toMatchObject({ state: "complete" });
    expect(outbox.sent).toEqual([
      {
        flow_id: flow.flow.id,
        namespace: "tests",
        flow_kind: "dag",
        state: "failed",
        total_members: 3,
        members_completed: 1,
        members_failed: 1,
        members_cancelled: 0,
        members_expired: 0,
        members_skipped: 1,
        ended_at: Number(await flow.read("zscore", flow.index.flowsEnded, flow.flow.id)),
      },
    ]);
    await flow.finish(await flow.member(), "success");
    await flow.read("hset", flow.flow.core, "workflow_name", "nightly", "public_flow_state", "cancelled");
    await run(flow, outbox);
    expect(outbox.sent).toHaveLength(2);
    expect(outbox.sent[1]).toMatchObject({
      workflow_name: "nightly",
      state: "cancelled",
      total_members: 4,
      members_completed: 2,
    });
  });

  it("are sent again if the process dies before it is recorded that they were accepted", async () => {
    const flow = await endedFlow(servers(), HOUR_MS);
    const outbox = new Outbox();
    const died = new Interrupted(servers().valkey, "sluice_confirm_flow_end", () =>
      Promise.reject(new Error("the process died")),
    );
    await expect(run(flow, outbox, died)).resolves.toMatchObject({ state: "complete" });
    expect(outbox.sent).toHaveLength(2);
  });

  it("hold back the deletion of their flow until they are accepted", async () => {
    const flow = await endedFlow(servers(), RETENTION_MS + HOUR_MS);
    const outbox = new Outbox();
    outbox.isClosed = true;
    expect(await run(flow, outbox)).toMatchObject({ state: "incomplete" });
    expect(await flow.read("exists", flow.flow.core)).toBe(1);
    outbox.isClosed = false;
    await run(flow, outbox);
    await run(flow, outbox);
    expect(outbox.sent).toHaveLength(1);
    expect(await keysLeft(flow)).toEqual([flow.flow.purged]);
  });
});

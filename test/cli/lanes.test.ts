import { randomUUID } from "node:crypto";
import { SendMessageCommand } from "@aws-sdk/client-sqs";
import { afterEach, describe, expect, it } from "vitest";
import { lanes } from "#operate/read/lanes.ts";
import { claimBatch } from "#sdk/worker/claim.ts";
import { type LaneId, parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { LANES_KEY } from "#shared/contract/keys.ts";
import { resumeLane } from "#shared/ready/paused-lanes.ts";
import { parseOutput, sluice } from "#test/cli/support.ts";
import { OWN_KINDS, OWN_ROUTER, useOwnServers } from "#test/operate/own-servers.ts";
import { operationRunner } from "#test/operate/support.ts";
import { RecordingPublisher } from "#test/submission/fixture.ts";
import { type FlowFixture, WORKER } from "#test/support/flow-fixture.ts";
import { createReadyQueue } from "#test/support/ready.ts";

const MINUTE_MS = 60_000;
const PRIORITY_SPAN = 1_000_000_000_000;

const newLane = (): LaneId => unwrap(parseLaneId(`lane-${randomUUID()}`));

describe.each(OWN_KINDS)("sluice lanes on %s", (kind) => {
  const servers = useOwnServers(kind);
  const paused = new Set<LaneId>();
  afterEach(async () => {
    await servers().valkey.pipelined([...paused].map(resumeLane));
    paused.clear();
  });

  const fixtureOf = (lane: LaneId) => servers().fixture(lane);

  /** What the command prints about one lane. */
  async function show(lane: LaneId, more: Readonly<Record<string, string>> = {}) {
    const { code, stdout, stderr } = await sluice(["lanes", "--lane", lane, "--json"], {
      environment: { ...servers().environment, ...more },
    });
    expect(stderr).toBe("");
    const { lanes: reports, read_at } = parseOutput("lanes", stdout);
    expect(reports).toHaveLength(1);
    return { code, report: reports[0], readAt: read_at as number };
  }

  it("counts what waits and runs, in all partitions", async () => {
    const lane = newLane();
    const [one, two] = [fixtureOf(lane), fixtureOf(lane)];
    const parent = await one.member();
    await one.edge(parent, await one.member());
    await two.member();
    const dueAt = Date.now() + MINUTE_MS;
    await two.member({ delayUntil: dueAt });
    const late = await two.member({ delayUntil: dueAt });
    await two.read("zadd", two.index.lane(lane).delayed, 1, late.id);
    await one.claim(await one.member());
    const lost = await two.member();
    await two.claim(lost);
    await two.read("zadd", two.index.leaseExpiry, 1, lost.id);
    const { code, report, readAt } = await show(lane);
    expect(code).toBe(0);
    expect(report).toMatchObject({
      state: "served",
      eligible: 2,
      delayed: 2,
      delayed_due: 1,
      next_due_at: 1,
      blocked: 1,
      blocked_otherwise: 0,
      suspended: 0,
      active: 2,
      expired_leases: 1,
    });
    expect(report.last_claim_at).toBeGreaterThan(readAt - MINUTE_MS);
    expect(report.last_claim_at).toBeLessThanOrEqual(readAt);
    expect(report).not.toHaveProperty("ready_queue");
    expect(report).not.toHaveProperty("paused");
  });

  it("finds the execution that waits for the longest time, whatever its priority", async () => {
    const lane = newLane();
    const [one, two] = [fixtureOf(lane), fixtureOf(lane)];
    const since = Date.now() - 10 * MINUTE_MS;
    await one.member({ priority: 7 });
    await two.member({ priority: 3 });
    const oldest = await one.member();
    await one.read("hset", oldest.core, "last_transition_at", since);
    const { report } = await show(lane);
    expect(report.oldest_eligible).toEqual({ execution_id: oldest.id, eligible_at: since });
    // The scores are what the test takes them for.
    expect(Number(await one.read("zscore", one.index.lane(lane).eligible, oldest.id))).toBeGreaterThan(
      PRIORITY_SPAN,
    );
  });

  it("takes the end of the submission for a root that a submission released", async () => {
    const lane = newLane();
    const fixture = fixtureOf(lane);
    const root = await fixture.member();
    const submittedAt = Date.now() - 5 * MINUTE_MS;
    await fixture.read("hset", root.core, "last_transition_at", Date.now() + 100 * MINUTE_MS);
    await fixture.read("hset", fixture.flow.core, "submission_completed_at", submittedAt);
    const { report } = await show(lane);
    expect(report.oldest_eligible).toEqual({ execution_id: root.id, eligible_at: submittedAt });
  });

  it("names a lane that nothing serves, and exits with 1", async () => {
    const lane = newLane();
    const fixture = fixtureOf(lane);
    const waiting = await fixture.member();
    expect((await show(lane)).report.state).toBe("served");
    await fixture.read("hset", waiting.core, "last_transition_at", Date.now() - 10 * MINUTE_MS);
    expect(await show(lane)).toMatchObject({ code: 1, report: { state: "not_served" } });
    const { code, stdout } = await sluice(["lanes", "--lane", lane], { environment: servers().environment });
    expect(code).toBe(1);
    expect(stdout).toContain("NOT SERVED");
    expect(stdout).toContain(
      `${lane}: no worker serves it. 1 execution can be taken, one for 10 min. Start a worker; sluice explain '${waiting.id}'`,
    );
    // A claim in the lane, of another execution.
    await fixture.finish(await fixture.member(), "success");
    expect(await show(lane)).toMatchObject({ code: 0, report: { state: "served" } });
    await fixture.read("zadd", fixture.index.laneClaims, Date.now() - 2 * MINUTE_MS, lane);
    expect((await show(lane)).report.state).toBe("not_served");
    // A worker that is busy for a long time.
    await fixture.claim(await fixture.member());
    await fixture.read("zadd", fixture.index.laneClaims, Date.now() - 2 * MINUTE_MS, lane);
    expect((await show(lane)).report.state).toBe("served");
  });

  it("counts an expired lease that no worker reclaims as work that nothing serves", async () => {
    const lane = newLane();
    const fixture = fixtureOf(lane);
    const lost = await fixture.member();
    await fixture.claim(lost);
    await fixture.read("zadd", fixture.index.laneClaims, 1, lane);
    await fixture.read("zadd", fixture.index.leaseExpiry, 1, lost.id);
    expect(await show(lane)).toMatchObject({ code: 1, report: { state: "not_served", eligible: 0 } });
  });

  it("shows an unknown lane as idle", async () => {
    expect((await show(newLane())).report).toMatchObject({ state: "idle", eligible: 0, active: 0 });
  });

  it("lists recorded lanes page by page", async () => {
    const names = [newLane(), newLane(), newLane()].sort();
    await servers().valkey.call("sadd", LANES_KEY, ...names);
    using runner = await operationRunner(servers().deployment);
    const seen: string[] = [];
    let cursor: string | undefined;
    do {
      const page = await runner.run(lanes, { limit: 1, ...(cursor === undefined ? {} : { cursor }) });
      expect(page.lanes.length).toBeLessThanOrEqual(1);
      seen.push(...page.lanes.map(({ lane }) => lane));
      cursor = page.next;
    } while (cursor !== undefined);
    expect(seen).toEqual([...seen].sort());
    expect(new Set(seen).size).toBe(seen.length);
    expect(seen).toEqual(expect.arrayContaining(names));
  });

  it.each([
    [["lanes", "--lane", ""], "lanes.0"],
    [["lanes", "--cursor", "\u0007"], "cursor"],
    [["lanes", "pause", "no such lane"], "no lane no such lane: the lanes in use are"],
  ])("exits with 2 for %j", async (args, message) => {
    const { code, stderr } = await sluice([...args, ...(args[1] === "pause" ? ["--yes"] : [])], {
      environment: servers().environment,
    });
    expect(stderr).toContain(message);
    expect(code).toBe(2);
  });

  describe("pause and resume", () => {
    async function usedLane(): Promise<FlowFixture> {
      const lane = newLane();
      await servers().valkey.call("sadd", LANES_KEY, lane);
      paused.add(lane);
      return fixtureOf(lane);
    }
    const change = (args: readonly string[]) => sluice(args, { environment: servers().environment });

    it("stop and start the claims of a lane, and leave an entry in the audit trail", async () => {
      const fixture = await usedLane();
      const { lane, flow } = fixture;
      const keys = await fixture.member();
      const claim = () =>
        claimBatch(
          {
            valkey: servers().valkey,
            router: OWN_ROUTER,
            identity: WORKER,
            completions: new RecordingPublisher(),
          },
          { partition: flow.partition, lane },
          { limit: 1 },
        );

      const preview = await change(["lanes", "pause", lane, "--dry-run", "--json"]);
      expect(parseOutput("lanes pause", preview.stdout)).toMatchObject({
        dry_run: true,
        changes: [{ target: lane, status: "would_change" }],
      });
      expect((await show(lane)).report.state).toBe("served");

      const done = await change(["lanes", "pause", lane, "--yes", "--reason", "disk full", "--json"]);
      expect(done.code).toBe(0);
      expect(parseOutput("lanes pause", done.stdout).changes).toMatchObject([
        { target: lane, status: "changed" },
      ]);
      expect(await claim()).toEqual([]);
      const { code, report } = await show(lane);
      expect(code).toBe(0);
      expect(report).toMatchObject({ state: "paused", paused: { reason: "disk full" }, eligible: 1 });
      expect((await change(["lanes", "--lane", lane])).stdout).toContain(": disk full");

      const again = await change(["lanes", "pause", lane, "--yes", "--reason", "other", "--json"]);
      expect(parseOutput("lanes pause", again.stdout).changes).toMatchObject([{ status: "unchanged" }]);
      expect((await show(lane)).report.paused.reason).toBe("disk full");

      const resumed = await change(["lanes", "resume", lane, "--yes", "--json"]);
      expect(parseOutput("lanes resume", resumed.stdout).changes).toMatchObject([{ status: "changed" }]);
      expect(await claim()).toMatchObject([{ target: { keys: { id: keys.id } } }]);
      expect((await show(lane)).report).not.toHaveProperty("paused");

      const { stdout } = await change(["audit", "--limit", "1000", "--json"]);
      const own = parseOutput("audit", stdout).entries.filter(
        ({ target }: { target: string }) => target === `lanes ${lane}`,
      );
      expect(own.map(({ operation }: { operation: string }) => operation)).toEqual([
        "lanes.resume",
        "lanes.pause",
        "lanes.pause",
      ]);
    });

    it("ask a person, and change nothing without a yes", async () => {
      const { lane } = await usedLane();
      const refused = await sluice(["lanes", "pause", lane], {
        environment: servers().environment,
        answer: "no",
      });
      expect(refused.questions).toEqual(["Make these changes?"]);
      expect((await show(lane)).report.state).toBe("idle");
      await sluice(["lanes", "pause", lane], { environment: servers().environment, answer: "yes" });
      expect((await show(lane)).report.state).toBe("paused");
      expect((await change(["lanes", "resume", lane])).code).toBe(2);
    });
  });

  it("counts the ready queue of a lane, and shows the rest if the queue cannot be read", async () => {
    const { queue } = servers();
    const client = queue.client();
    const lane = newLane();
    const url = await createReadyQueue(client, queue);
    for (const DelaySeconds of [0, 0, 600]) {
      await client.send(new SendMessageCommand({ QueueUrl: url, MessageBody: "{}", DelaySeconds }));
    }
    client.destroy();
    const showWith = (readyUrl: string) =>
      show(lane, { READY_QUEUES: JSON.stringify({ [lane]: readyUrl }) }).then(({ report }) => report);
    expect((await showWith(url)).ready_queue).toEqual({ visible: 2, in_flight: 0, delayed: 1 });
    const missing = await showWith(`${url}-missing`);
    expect(missing).not.toHaveProperty("ready_queue");
    expect(missing.ready_queue_error).toContain("reading the queue's message counts failed");
    expect(missing.state).toBe("idle");
  });
});

import { randomUUID } from "node:crypto";
import { afterEach, describe, expect, it } from "vitest";
import { cancelFlow } from "#shared/contract/graph.ts";
import { LEASE_KEY } from "#shared/reconcile/lease.ts";
import { parseOutput, sluice } from "#test/cli/support.ts";
import { OWN_KINDS, useOwnServers } from "#test/operate/own-servers.ts";
import { drainQueue } from "#test/support/drain.ts";
import type { FlowFixture } from "#test/support/flow-fixture.ts";
import { LANE } from "#test/support/flow-fixture.ts";
import { createReadyQueue } from "#test/support/ready.ts";
import { onEveryPrimary } from "#test/support/valkey.ts";

const MINUTE_MS = 60_000;

interface TaskReport {
  readonly task: string;
  readonly state: string;
  readonly scanned: number;
  readonly counts: Readonly<Record<string, number>>;
}

describe.each(OWN_KINDS)("sluice reconcile on %s", (kind) => {
  const servers = useOwnServers(kind);
  afterEach(async () => {
    await onEveryPrimary(servers().valkey, "flushdb");
    await sent();
  });

  async function run(args: readonly string[], more: Readonly<Record<string, string>> = {}) {
    const environment = { ...servers().environment, ...more };
    const { code, stdout, stderr } = await sluice(["reconcile", ...args, "--json"], { environment });
    const report = parseOutput("reconcile", stdout);
    const byTask = new Map<string, TaskReport>(report.tasks.map((one: TaskReport) => [one.task, one]));
    return { code, stderr, report, task: (name: string) => byTask.get(name) };
  }

  /** Empties the completions queue, and returns the executions whose completions it had. */
  async function sent(): Promise<string[]> {
    const { queue } = servers();
    const client = queue.client();
    try {
      const messages = await drainQueue(client, queue.queueUrl);
      return messages.map(({ Body = "{}" }) => (JSON.parse(Body) as { execution_id: string }).execution_id);
    } finally {
      client.destroy();
    }
  }

  /** A flow whose first execution ended a while ago without a message. */
  async function missed(): Promise<{ readonly fixture: FlowFixture; readonly parent: string }> {
    const fixture = servers().fixture();
    const parent = await fixture.member();
    await fixture.edge(parent, await fixture.member());
    await fixture.finish(parent, "success");
    await fixture.read("hset", parent.core, "completed_at", Date.now() - 5 * MINUTE_MS);
    return { fixture, parent: parent.id };
  }

  it("previews without a write or a message, then does what it said, with one entry in the audit trail", async () => {
    const { fixture, parent } = await missed();
    const lost = await fixture.member();
    await fixture.claim(lost);
    await fixture.read("hset", lost.core, "lease_expires_at", 1);
    await fixture.read("zadd", fixture.index.leaseExpiry, 1, lost.id);
    const late = await fixture.member();
    await fixture.read("zadd", fixture.index.executionDeadline, 1, late.id);
    const retry = await fixture.member({ delayUntil: Date.now() + MINUTE_MS });
    await fixture.read("hset", retry.core, "delay_until", 1);
    await fixture.read("zadd", fixture.index.lane(LANE).delayed, 1, retry.id);
    const before = await fixture.snapshot();

    const preview = await run(["--dry-run"]);
    expect(preview.stderr).toBe("");
    expect(preview.code).toBe(0);
    expect(preview.report).toMatchObject({ dry_run: true, partitions: 16, unreadable: 0, notes: [] });
    expect(preview.report).not.toHaveProperty("next");
    const expected = {
      leases: { LeasesExpired: 1 },
      timeouts: { ExecutionsExpired: 1 },
      delays: { DelaysPromoted: 1 },
      dependencies: { CompletionsRepaired: 1 },
    };
    for (const [name, counts] of Object.entries(expected)) {
      expect(preview.task(name), name).toMatchObject({ state: "complete", counts });
    }
    expect(preview.task("cancellations")).toMatchObject({ state: "counted" });
    expect(preview.task("retention")).toBeUndefined();
    expect(await fixture.snapshot()).toEqual(before);
    expect(await sent()).toEqual([]);

    const done = await run(["--yes", "--reason", "3 a.m."]);
    expect(done.code).toBe(0);
    for (const [name, counts] of Object.entries(expected)) {
      expect(done.task(name), name).toMatchObject({ state: "complete", counts });
    }
    expect(done.task("cancellations")).toMatchObject({ state: "complete" });
    expect(await sent()).toEqual([parent]);
    expect(await fixture.hash(lost.core)).toMatchObject({ ownership_state: "lease_expired_reclaimable" });
    expect(await fixture.hash(late.core)).toMatchObject({ public_state: "expired" });
    expect(await fixture.hash(retry.core)).toMatchObject({ eligibility_state: "eligible_now" });
    const audit = await sluice(["audit", "--json"], { environment: servers().environment });
    expect(parseOutput("audit", audit.stdout).entries).toMatchObject([
      { operation: "reconcile", target: "sweep of all partitions: all tasks", reason: "3 a.m." },
    ]);
  });

  it("sweeps the partition of one flow, and only the tasks that are named", async () => {
    const first = await missed();
    let second = await missed();
    while (second.fixture.flow.partition === first.fixture.flow.partition) second = await missed();
    const { code, report } = await run(["--yes", "--flow", first.fixture.flow.id, "--task", "dependencies"]);
    expect(code).toBe(0);
    expect(report.partitions).toBe(1);
    expect(report.tasks).toMatchObject([
      { task: "dependencies", state: "complete", counts: { CompletionsRepaired: 1 } },
    ]);
    const executions = await sent();
    expect(executions).toContain(first.parent);
    expect(executions).not.toContain(second.parent);
  });

  it("works while the scheduled reconciler holds its lease, and leaves its lease and checkpoint alone", async () => {
    const { parent } = await missed();
    await servers().valkey.call("set", LEASE_KEY, "another run");
    expect((await run(["--yes"])).code).toBe(0);
    expect(await sent()).toEqual([parent]);
    expect(await servers().valkey.call("get", LEASE_KEY)).toBe("another run");
  });

  it("sends the ready message of what no worker has claimed, and previews it", async () => {
    const { queue, fixture: newFixture } = servers();
    const client = queue.client();
    const url = await createReadyQueue(client, queue);
    const more = { READY_QUEUES: JSON.stringify({ [LANE]: url }) };
    const fixture = newFixture();
    const keys = await fixture.member();
    await fixture.read("hset", keys.core, "last_transition_at", Date.now() - 5 * MINUTE_MS);
    const before = await fixture.snapshot();
    const args = ["--flow", fixture.flow.id, "--task", "ready"];
    expect((await run([...args, "--dry-run"], more)).task("ready")?.counts).toMatchObject({ ReadyResent: 1 });
    expect(await fixture.snapshot()).toEqual(before);
    expect(await queue.counts(url)).toMatchObject({ visible: 0 });
    expect((await run([...args, "--yes"], more)).task("ready")?.counts).toMatchObject({ ReadyResent: 1 });
    expect(await queue.counts(url)).toMatchObject({ visible: 1 });
    client.destroy();
  });

  it("moves past many due entries with one score in a preview", async () => {
    const fixture = servers().fixture();
    const { delayed } = fixture.index.lane(LANE);
    const ids = Array.from({ length: 2_600 }, () => `{fp:${fixture.flow.partition}}:${randomUUID()}`);
    await fixture.read("zadd", delayed, ...ids.flatMap((id) => [1, id]));
    const { task } = await run(["--dry-run", "--task", "delays"]);
    expect(task("delays")).toMatchObject({ state: "complete", scanned: 2_600 });
    expect(await fixture.read("zcard", delayed)).toBe(2_600);
  });

  it("counts cancelled flows and ended flows, which it does not preview", async () => {
    const fixture = servers().fixture();
    await fixture.member();
    await fixture.done(cancelFlow(fixture.flow, fixture.index, "test", "cancel_all", Date.now(), 0));
    await fixture.read("zadd", fixture.index.cancelBacklog, 1, fixture.flow.id);
    await fixture.read("zadd", fixture.index.flowsEnded, 1, randomUUID());
    const args = ["--dry-run", "--task", "cancellations", "--task", "retention"];
    const { report } = await run(args, { RETENTION_HOURS: "1" });
    expect(report.tasks).toMatchObject([
      {
        task: "cancellations",
        state: "counted",
        counts: { CancelledFlowsWaiting: 1, CancelGroupsWaiting: 0 },
      },
      { task: "retention", state: "counted", counts: { EndedFlowsWaiting: 1 } },
    ]);
  });

  it("asks a person, and prints a table", async () => {
    const { parent } = await missed();
    const { environment } = servers();
    const refused = await sluice(["reconcile"], { environment, answer: "no" });
    expect(refused.questions).toEqual(["Sweep now?"]);
    expect(refused.stderr).toMatch(/dependencies +complete +1 +1 completions repaired/);
    expect(await sent()).toEqual([]);
    const { stdout } = await sluice(["reconcile"], { environment, answer: "yes" });
    expect(stdout).toMatch(/^task +state +read +did\n/);
    expect(await sent()).toEqual([parent]);
  });

  it.each([
    [["--task", "retention", "--yes"], {}, "RETENTION_HOURS is not set"],
    [["--task", "ready", "--yes"], {}, "READY_QUEUES is not set"],
    [["--task", "everything", "--yes"], {}, "tasks.0"],
    [["--flow", "nightly", "--yes"], {}, "flow: expected a flow id"],
    [["--yes"], { COMPLETIONS_QUEUE_URL: "" }, "COMPLETIONS_QUEUE_URL"],
    [[], {}, "add --dry-run to see the changes, or --yes"],
  ])("exits with 2 for %j", async (args, more, message) => {
    const environment = { ...servers().environment, ...more };
    const { code, stdout, stderr } = await sluice(["reconcile", ...args], { environment });
    expect(stderr).toContain(message);
    expect(stdout).toBe("");
    expect(code).toBe(2);
  });
});

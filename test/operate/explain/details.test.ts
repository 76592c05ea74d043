/** Causes beside the fourteen troubles, several at once, and executions in which nothing is wrong. */

import { randomUUID } from "node:crypto";
import { SendMessageCommand } from "@aws-sdk/client-sqs";
import { describe, expect, it } from "vitest";
import { submitFlow } from "#sdk/submission/submit.ts";
import { cancelFlow } from "#shared/contract/graph.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import { revokeLease } from "#shared/contract/upkeep.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { pauseLane, resumeLane } from "#shared/ready/paused-lanes.ts";
import { sweep } from "#shared/reconcile/sweep.ts";
import { Random } from "#test/faults/random.ts";
import {
  ageEnd,
  ageSubmission,
  BED_ROUTER,
  causeOf,
  codesOf,
  explainOn,
  fixtureOn,
  submitOn,
  useTroubledServers,
} from "#test/operate/explain/bed.ts";
import { InterceptedPipelines, workflowOf } from "#test/submission/fixture.ts";
import { dispatchOne, eventOf, portsOf, stateOf } from "#test/support/dispatch.ts";
import { SERVER_KINDS } from "#test/support/reconcile.ts";

const MINUTE_MS = 60_000;

describe.each(SERVER_KINDS)("explain (%s)", (kind) => {
  const servers = useTroubledServers(kind);

  it("lists every cause, not only the first", async () => {
    const flow = await submitOn(servers(), ["lost>z", "fresh>z", "running>z", "waiting>z", "gone>z"]);
    const { fixture } = flow;
    await fixture.finish(flow.keys("lost"), "success");
    await ageEnd(fixture, flow.keys("lost"));
    await fixture.finish(flow.keys("fresh"), "success");
    await fixture.claim(flow.keys("running"));
    await fixture.read("del", flow.keys("gone").core);
    const unapplied = fixture.newEdge(await fixture.member(), flow.keys("z"));
    await fixture.stage(unapplied);
    await fixture.done(cancelFlow(fixture.flow, fixture.index, "", "cancel_all", 0, MINUTE_MS));
    await servers().valkey.pipelined([
      pauseLane(fixture.lane, {
        pausedAtMs: Date.now() - MINUTE_MS,
        actor: "ann@laptop",
        reason: "maintenance",
      }),
    ]);
    const router = new PartitionRouter({ ...BED_ROUTER.config, numFlowPartitions: 257 });
    const explanation = await explainOn(servers(), flow.keys("z"), { context: { router } });
    await servers().valkey.pipelined([resumeLane(fixture.lane)]);
    const codes = codesOf(explanation).filter((code) => code !== "flow_in_other_partition");
    expect(codes).toEqual(
      [
        ...[
          "completion_in_flight",
          "completion_missing",
          "edge_not_applied",
          "flow_cancelled",
          "lane_paused",
        ],
        ...["partition_count_mismatch", "upstream_not_ended", "upstream_not_ended", "upstream_purged"],
      ].sort(),
    );
    expect(causeOf(explanation, "lane_paused").text).toMatch(
      /paused 1 min.* ago by ann@laptop: maintenance\./,
    );
    const severities = explanation.causes.map(({ severity }) => severity);
    expect(severities).toEqual(severities.toSorted((a, b) => ORDER.indexOf(a) - ORDER.indexOf(b)));
    expect(explanation.summary).toMatch(/^FLOW_PARTITIONS is 257.*\(and 3 more problems\)$/);
    expect(explanation.edges?.items).toHaveLength(6);
    expect(new Set(explanation.next).size).toBe(explanation.next.length);
  });

  it("finds nothing but running upstreams in a flow that runs well, at every moment", async () => {
    const seed = Date.now() % 1_000_000;
    const random = new Random(seed);
    const flow = await submitOn(servers(), randomEdges(random));
    const open = new Set(flow.submission.executions.keys());
    const tasks = [...open];
    const { fixture } = flow;
    const ports = portsOf(servers().valkey, servers().queue, { router: BED_ROUTER });
    const seen = new Set<string>();
    const lookAtAll = async (): Promise<void> => {
      for (const name of tasks) {
        for (const { code, text } of (await explainOn(servers(), flow.keys(name))).causes) {
          seen.add(code);
          expect([seed, name, WELL.includes(code) ? "" : text]).toEqual([seed, name, ""]);
        }
      }
    };
    while (open.size > 0) {
      const states = await Promise.all([...open].map((name) => stateOf(fixture, flow.keys(name))));
      const next = random.pick([...open].filter((_, at) => states[at] === "waiting"));
      open.delete(next);
      // While an execution is claimed, ended and dispatched, all of them are explained.
      const advance = async (): Promise<void> => {
        await fixture.finish(flow.keys(next), "success");
        expect(await dispatchOne(ports, eventOf(flow.keys(next).id, fixture.flow.id))).toEqual([]);
      };
      await Promise.all([advance(), lookAtAll()]);
    }
    await lookAtAll();
    expect([...seen]).toEqual(
      expect.arrayContaining(["upstream_not_ended", "waiting_for_worker", "succeeded"]),
    );
  });

  it("follows blocked upstreams to the execution that holds all of them back", async () => {
    const flow = await submitOn(servers(), ["a>b", "b>c", "side>c", "c>d", "d>e"]);
    await flow.fixture.finish(flow.keys("side"), "success");
    const running = await explainOn(servers(), flow.keys("e"));
    expect(running.wait?.chain.map(({ task, state }) => [task, state])).toEqual([
      ["d", "waiting_children"],
      ["c", "waiting_children"],
      ["b", "waiting_children"],
      ["a", "waiting"],
    ]);
    expect(causeOf(running, "upstream_not_ended").text).toBe(
      "1 upstream has not ended: waiting_children, it waits for its own dependencies. Followed upwards, the first one leads to " +
        `a (${flow.keys("a").id}), 4 levels above: waiting, it waits for a worker.`,
    );
    expect(running.next).toEqual([`sluice explain '${flow.keys("a").id}'`]);
    // A completion that is missing comes before an upstream that only waits.
    await ageEnd(flow.fixture, flow.keys("side"));
    const { wait } = await explainOn(servers(), flow.keys("e"));
    expect(wait?.chain.slice(2)).toMatchObject([{ task: "side", state: "ended" }]);
    expect(codesOf(await explainOn(servers(), flow.keys("c")))).toContain("completion_missing");
  });

  it("names a submission that stopped before its edges were staged", async () => {
    const { fixture, flowId } = await halfSubmitted();
    const [members] = [(await fixture.read("smembers", fixture.flow.members)) as string[]];
    const explanations = await Promise.all(members.map((id) => explainOn(servers(), id)));
    const child = explanations.find(({ record }) => record?.task === "b");
    const root = explanations.find(({ record }) => record?.task === "a");
    if (child === undefined || root === undefined) throw new Error("no member");
    expect(codesOf(root)).toEqual(["submission_running"]);
    expect(codesOf(child)).toEqual(["edge_not_staged", "submission_running", "upstream_not_ended"]);
    await fixture.read("hset", fixture.flow.core, "last_mutation_at", Date.now() - 5 * MINUTE_MS);
    const later = await explainOn(servers(), root.execution_id);
    expect(codesOf(later)).toEqual(["submission_incomplete"]);
    expect(causeOf(later, "submission_incomplete").text).toMatch(
      /^The submission stopped 5 min.* ago: 2 of 2 tasks are members/,
    );
    expect(later.next).toContain(`sluice submit FILE --flow ${flowId}`);
  });

  /** A submission whose process dies when it stages the edges. */
  async function halfSubmitted() {
    const fixture = fixtureOn(servers());
    const died = { ok: false as const, error: new Error("the process died") };
    const valkey = new InterceptedPipelines(servers().valkey, (_, send, commands) =>
      commands.some(({ args: [name] }) => name === "ff_stage_dependency_edge")
        ? Promise.resolve(commands.map(() => died))
        : send(),
    );
    const { client, queue } = servers().queue;
    const completions = new SqsCompletionPublisher(client, queue.queueUrl);
    const options = { flowId: fixture.flow.id };
    await expect(
      submitFlow({ valkey, router: BED_ROUTER, completions }, workflowOf("a>b"), options),
    ).rejects.toThrow("the process died");
    return { fixture, flowId: fixture.flow.id };
  }

  it("names executions that are claimed first, where workers are busy", async () => {
    const flow = await submitOn(servers(), ["a>z", "b>z", "c>z"]);
    await ageSubmission(flow);
    // A worker is at work in the lane.
    await flow.fixture.claim(flow.keys("a"));
    const codes = [];
    for (const name of ["b", "c"]) codes.push(...codesOf(await explainOn(servers(), flow.keys(name))));
    expect(codes.sort()).toEqual(["lane_backlog", "waiting_for_worker"]);
  });

  it("says that a ready message is not recorded, where the lane has a ready queue", async () => {
    const flow = await submitOn(servers(), ["a>b"]);
    await ageSubmission(flow);
    const { queue } = servers().queue;
    const queues = { completions: queue.queueUrl, ready: new Map([[flow.fixture.lane, queue.queueUrl]]) };
    const explanation = await explainOn(servers(), flow.keys("a"), { context: { queues } });
    expect(codesOf(explanation)).toEqual(["lane_without_worker", "not_announced"]);
    expect(causeOf(explanation, "lane_without_worker").text).toContain("its ready queue holds 0 messages");
    // A worker is at work, and the queue is full.
    await flow.fixture.claim(await flow.fixture.member());
    const { client } = servers().queue;
    await client.send(new SendMessageCommand({ QueueUrl: queue.queueUrl, MessageBody: "{}" }));
    const busy = await explainOn(servers(), flow.keys("a"), { context: { queues } });
    expect(codesOf(busy)).toEqual(["lane_backlog", "not_announced"]);
    await servers().queue.drain();
  });

  it("names a revoked lease, a passed deadline and a delay that was not ended", async () => {
    const flow = await submitOn(servers(), ["a>z", "b>z"]);
    const { fixture } = flow;
    await fixture.claim(flow.keys("a"));
    await fixture.done(revokeLease(fixture.target(flow.keys("a")), "worker-1", "", "node drained"));
    const revoked = await explainOn(servers(), flow.keys("a"));
    expect(codesOf(revoked)).toContain("lease_revoked");
    expect(causeOf(revoked, "lease_revoked").text).toContain("node drained");

    const past = Date.now() - 5 * MINUTE_MS;
    await fixture.read("zadd", fixture.index.executionDeadline, past, flow.keys("b").id);
    expect(codesOf(await explainOn(servers(), flow.keys("b")))).toContain("timeout_overdue");

    const delayed = await fixture.member({ delayUntil: Date.now() + MINUTE_MS });
    expect(codesOf(await explainOn(servers(), delayed))).toEqual(["delay_not_over"]);
    await fixture.read("hset", delayed.core, "delay_until", past);
    await fixture.read("zadd", fixture.index.lane(fixture.lane).delayed, past, delayed.id);
    expect(codesOf(await explainOn(servers(), delayed))).toEqual(["delay_overdue"]);
  });

  it("names executions that nothing holds back, and an index that lost its entry", async () => {
    const flow = await submitOn(servers(), ["a>b"]);
    const { fixture } = flow;
    const b = flow.keys("b");
    const [edge = ""] = (await fixture.read("smembers", b.depsUnresolved)) as string[];
    await fixture.read("srem", b.depsUnresolved, edge);
    await fixture.read("hset", b.depsMeta, "unsatisfied_required_count", 0);
    await fixture.read("hset", `${b.core.slice(0, -4)}dep:${edge}`, "state", "satisfied");
    expect(codesOf(await explainOn(servers(), b))).toEqual(["not_released"]);
    await fixture.read("hset", b.depsMeta, "impossible_required_count", 1);
    await fixture.read("zrem", fixture.index.lane(fixture.lane).blockedDependencies, b.id);
    expect(codesOf(await explainOn(servers(), b))).toEqual(["index_mismatch", "not_skipped"]);
    await fixture.read("sadd", b.depsUnresolved, edge, "no edge");
    const invalid = await explainOn(servers(), b);
    expect(causeOf(invalid, "dependency_invalid")).toMatchObject({ count: 2 });
  });

  it("tells a late completion from a lost one by what the reconciler and the queue say", async () => {
    const flow = await submitOn(servers(), ["a>b"]);
    const { fixture } = flow;
    await fixture.finish(flow.keys("a"), "success");
    await ageEnd(fixture, flow.keys("a"));
    const { client, queue } = servers().queue;
    const ports = servers().ports([fixture], { router: BED_ROUTER, lanes: [fixture.lane] });
    expect(await sweep(ports)).toMatchObject({ state: "complete" });
    const sent = await explainOn(servers(), flow.keys("b"));
    expect(codesOf(sent)).toEqual(["completion_missing"]);
    expect(causeOf(sent, "completion_missing").text).toMatch(
      /The reconciler has sent it 1 time, the last time .* ago\. The completions queue holds 1 message\./,
    );
    for (let message = 0; message < 10; message += 1) {
      await client.send(new SendMessageCommand({ QueueUrl: queue.queueUrl, MessageBody: "{}" }));
    }
    const behind = await explainOn(servers(), flow.keys("b"));
    expect(causeOf(behind, "dispatch_behind").count).toBe(11);
    await servers().queue.drain();
  });

  it("leaves the dead letters of other executions alone, and says when it cannot look", async () => {
    const flow = await submitOn(servers(), ["a>b"]);
    await flow.fixture.finish(flow.keys("a"), "success");
    await ageEnd(flow.fixture, flow.keys("a"));
    const { client, queue } = servers().queue;
    const execution = `{fp:1}:${randomUUID()}`;
    const bodies = [JSON.stringify({ execution_id: execution, flow_id: flow.fixture.flow.id }), "not JSON"];
    for (const body of bodies) {
      await client.send(new SendMessageCommand({ QueueUrl: queue.deadLetterQueueUrl, MessageBody: body }));
    }
    expect(codesOf(await explainOn(servers(), flow.keys("b")))).toEqual(["completion_missing"]);
    const MessageBody = JSON.stringify({ execution_id: "a", flow_id: flow.fixture.flow.id });
    await client.send(new SendMessageCommand({ QueueUrl: queue.deadLetterQueueUrl, MessageBody }));
    const found = causeOf(await explainOn(servers(), flow.keys("b")), "completion_dead_lettered");
    expect(found).toMatchObject({
      count: 1,
      text: expect.stringContaining("It names no valid execution, only this flow."),
    });
    expect(found.text).toContain("after too many failed deliveries");
    expect(await queue.counts(queue.deadLetterQueueUrl)).toEqual({ visible: 3, inFlight: 0, delayed: 0 });
    await servers().queue.drain(queue.deadLetterQueueUrl);

    const without = { queues: { ready: new Map() } };
    const blind = await explainOn(servers(), flow.keys("b"), { context: without });
    expect(causeOf(blind, "completion_missing").text).toContain("DEAD_LETTER_QUEUE_URL is not set");
    const unknown = `${queue.deadLetterQueueUrl}-unknown`;
    const wrong = { queues: { deadLetters: unknown, completions: unknown, ready: new Map() } };
    const failing = await explainOn(servers(), flow.keys("b"), { context: wrong });
    expect(causeOf(failing, "completion_missing").text).toMatch(
      /The completions queue could not be read: .*The dead-letter queue could not be searched: /,
    );
  });

  it("reads the chain of a skip through an any_of group, and says when a record of it is gone", async () => {
    const fixture = fixtureOn(servers());
    const [left, right] = [await fixture.member(), await fixture.member()];
    const child = await fixture.member();
    await fixture.group(child, { variant: "any_of", onSatisfied: "let_run" });
    const first = await fixture.edge(left, child);
    const second = await fixture.edge(right, child);
    const grandchild = await fixture.member();
    const third = await fixture.edge(child, grandchild);
    await fixture.finish(left, "failed");
    await fixture.cancel(right);
    const now = Date.now();
    await fixture.done(fixture.resolution(first, "failed", now - 2));
    await fixture.done(fixture.resolution(second, "cancelled", now - 1));
    await fixture.done(fixture.resolution(third, "skipped", now));
    const explanation = await explainOn(servers(), grandchild);
    // The cancellation decided the group.
    expect(explanation.skip).toMatchObject({
      root_execution_id: right.id,
      root_reason: "cancelled: not wanted",
      is_complete: true,
      chain: [
        { execution_id: child.id, outcome: "skipped" },
        { execution_id: right.id, outcome: "cancelled", reason: "not wanted" },
      ],
    });
    await fixture.read("del", child.core);
    const broken = await explainOn(servers(), grandchild);
    expect(broken.skip).toMatchObject({ root_execution_id: right.id, is_complete: false });
    expect(causeOf(broken, "skipped").text).toBe(
      `It was skipped because of ${right.id}: cancelled: not wanted.`,
    );
    await fixture.read("hdel", grandchild.core, "skip_root", "skip_reason");
    const unknown = await explainOn(servers(), grandchild);
    expect(causeOf(unknown, "skipped").text).toContain("The root failure is not known");
  });

  it("explains an execution in no flow", async () => {
    const fixture = fixtureOn(servers());
    const keys = await fixture.execution();
    const explanation = await explainOn(servers(), keys);
    expect(codesOf(explanation)).toEqual(["waiting_for_worker"]);
    expect(explanation).not.toHaveProperty("edges");
    await fixture.finish(keys, "success");
    expect(codesOf(await explainOn(servers(), keys))).toEqual(["succeeded"]);
  });

  it("explains how an execution ended", async () => {
    const flow = await submitOn(servers(), ["a>b"]);
    await flow.fixture.finish(flow.keys("a"), "failed");
    const failed = await explainOn(servers(), flow.keys("a"));
    expect(causeOf(failed, "failed").text).toMatch(/^It failed .* ago, in attempt 1: it broke\.$/);
    expect(failed.next[0]).toBe(`sluice replay '${flow.keys("a").id}' --descendants --dry-run`);
    await flow.fixture.cancel(flow.keys("b"));
    const cancelled = await explainOn(servers(), flow.keys("b"));
    expect(causeOf(cancelled, "cancelled").text).toMatch(
      /^It was cancelled .* ago by operator: not wanted\.$/,
    );
  });

  it("says where an unknown execution may be", async () => {
    const flow = await submitOn(servers(), ["a>b"]);
    const { id } = flow.keys("a");
    const uuid = id.slice(id.indexOf("}:") + 2);
    const other = `{fp:${(flow.fixture.flow.partition + 1) % 256}}:${uuid}`;
    const elsewhere = await explainOn(servers(), other);
    expect(codesOf(elsewhere)).toEqual(["execution_elsewhere"]);
    expect(elsewhere.next).toEqual([`sluice explain '${id}'`]);

    const unknown = `{fp:300}:${randomUUID()}`;
    expect(codesOf(await explainOn(servers(), unknown))).toEqual([
      "execution_not_found",
      "partition_out_of_range",
    ]);

    const inFlow = await explainOn(servers(), `{fp:${flow.fixture.flow.partition}}:${randomUUID()}`, {
      flow: flow.fixture.flow.id,
    });
    expect(causeOf(inFlow, "execution_not_found").text).toContain("does not list it and was not deleted");

    await flow.fixture.read("del", flow.keys("b").core);
    const lost = await explainOn(servers(), flow.keys("b"));
    expect(causeOf(lost, "execution_not_found").text).toContain(
      `flow ${flow.fixture.flow.id} lists it as a member`,
    );
  });

  it("stays small and quick with 20,000 edges, and pages through them", async () => {
    const fixture = fixtureOn(servers());
    const count = 20_000;
    const child = await fixture.member();
    const upstreams = await writeEdges(fixture, child, count);
    const [first, second] = upstreams;
    if (first === undefined || second === undefined) throw new Error("no upstream");
    const explanation = await explainOn(servers(), child);
    expect(explanation.causes.map(({ code, count: alike }) => [code, alike])).toEqual([
      ["upstream_purged", count - 1],
      ["upstream_not_ended", 1],
    ]);
    expect(JSON.stringify(explanation).length).toBeLessThan(100_000);
    const seen = new Set<string>();
    let cursor: string | undefined;
    do {
      const page = (
        await explainOn(servers(), child, { edges: 1_000, ...(cursor === undefined ? {} : { cursor }) })
      ).edges;
      for (const { edge_id } of page?.items ?? []) seen.add(edge_id);
      cursor = page?.next;
    } while (cursor !== undefined && seen.size < 3_000);
    expect(seen.size).toBeGreaterThanOrEqual(3_000);

    const late = await explainOn(servers(), child, { context: { deadlineMs: Date.now() } });
    expect(codesOf(late)).toContain("reading_incomplete");
  });
});

/** The edges of a graph of eight tasks in which each but the first depends on one to three earlier ones. */
function randomEdges(random: Random): string[] {
  const names = ["a", "b", "c", "d", "e", "f", "g", "h"];
  return names.flatMap((name, position) =>
    random
      .shuffled(names.slice(0, position))
      .slice(0, random.between(1, 3))
      .map((upstream) => `${upstream}>${name}`),
  );
}

const ORDER = ["problem", "warning", "info"];
/** What an execution of a flow without trouble can wait for, and how it ends. */
const WELL = [
  ...[
    "upstream_not_ended",
    "completion_in_flight",
    "waiting_for_worker",
    "claim_granted",
    "running",
    "succeeded",
  ],
];

type Fixture = ReturnType<typeof fixtureOn>;
type Keys = Awaited<ReturnType<Fixture["member"]>>;

/** Stages and applies edges from executions without a record, but for the first one, directly: calls would take minutes. */
async function writeEdges(fixture: Fixture, child: Keys, count: number): Promise<Keys[]> {
  const first = await fixture.member();
  await fixture.edge(first, child);
  const upstreams = [first];
  for (let start = 1; start < count; start += 1_000) {
    const some = Array.from({ length: Math.min(1_000, count - start) }, () => fixture.newExecution());
    const edges = some.map((upstream) => fixture.newEdge(upstream, child));
    const ids = edges.map(({ id }) => id);
    for (const key of [child.depsUnresolved, child.depsAllEdges, fixture.flow.incoming(child.id)]) {
      await fixture.read("sadd", key, ...ids);
    }
    await Promise.all(
      edges.map(({ id, upstream }) =>
        fixture.read("hset", child.dep(id), "state", "unsatisfied", "upstream_execution_id", upstream),
      ),
    );
    upstreams.push(...some);
  }
  await fixture.read("hset", child.depsMeta, "unsatisfied_required_count", count);
  return upstreams;
}

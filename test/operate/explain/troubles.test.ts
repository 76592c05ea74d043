/** The fourteen troubles that an operator meets most: `explain` names the cause of each, and nothing that is not there. */

import { SendMessageCommand } from "@aws-sdk/client-sqs";
import { describe, expect, it } from "vitest";
import { librarySource } from "#lua/library.ts";
import { cancelFlow } from "#shared/contract/graph.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import { markLeaseExpiredIfDue } from "#shared/contract/upkeep.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { sweep } from "#shared/reconcile/sweep.ts";
import { retention } from "#shared/reconcile/tasks/retention.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import {
  ageEnd,
  ageSubmission,
  BED_ROUTER,
  causeOf,
  codesOf,
  dispatchQueued,
  explainOn,
  fixtureOn,
  processQueued,
  submitOn,
  useTroubledServers,
} from "#test/operate/explain/bed.ts";
import { dispatchOne, eventOf, portsOf } from "#test/support/dispatch.ts";
import type { FlowFixture } from "#test/support/flow-fixture.ts";
import { SERVER_KINDS } from "#test/support/reconcile.ts";
import { onEveryPrimary } from "#test/support/valkey.ts";

const RETRY = '{"max_retries":3,"backoff":{"type":"fixed","delay_ms":600000}}';
const MINUTE_MS = 60_000;
/** Version 20 is of neither edition. */
const UNKNOWN_LIBRARY = `#!lua name=flowfabric
server.register_function{ function_name = 'ff_version', callback = function() return '20' end, flags = { 'no-writes' } }`;

describe.each(SERVER_KINDS)("explain (%s)", (kind) => {
  const servers = useTroubledServers(kind);

  it("1: names a lost message, and the command that sends it again", async () => {
    const flow = await submitOn(servers(), ["a>b"]);
    await flow.fixture.finish(flow.keys("a"), "success");
    await ageEnd(flow.fixture, flow.keys("a"));
    const explanation = await explainOn(servers(), flow.keys("b"));
    expect(codesOf(explanation)).toEqual(["completion_missing"]);
    const { text, involved, next } = causeOf(explanation, "completion_missing");
    expect(text).toMatch(/ended 5 min ago with outcome success.*It is not in the dead-letter queue\.$/);
    expect(text).toContain("The completions queue holds 0 messages.");
    expect(involved.executions).toEqual([flow.keys("a").id]);
    expect(next).toContain(`sluice publish '${flow.keys("a").id}'`);
    // Seen from the other side.
    const upstream = await explainOn(servers(), flow.keys("a"));
    expect(codesOf(upstream)).toEqual(["children_not_updated", "succeeded"]);
    expect(causeOf(upstream, "children_not_updated").involved.executions).toEqual([flow.keys("b").id]);
  });

  it("2: names an edge that is staged and not applied", async () => {
    const fixture = fixtureOn(servers());
    const [upstream, child] = [await fixture.member(), await fixture.member()];
    await fixture.edge(await fixture.member(), child);
    const edge = fixture.newEdge(upstream, child);
    await fixture.stage(edge);
    const explanation = await explainOn(servers(), child);
    expect(codesOf(explanation)).toEqual(["edge_not_applied", "upstream_not_ended"]);
    expect(causeOf(explanation, "edge_not_applied")).toMatchObject({
      count: 1,
      involved: { edges: [edge.id] },
    });
    expect(explanation.edges?.items).toContainEqual({
      edge_id: edge.id,
      upstream_execution_id: upstream.id,
      upstream_task: "",
      upstream_state: "waiting",
      is_staged: true,
      is_applied: false,
      state: "",
    });
  });

  it("3: names a missing library", async () => {
    const flow = await submitOn(servers(), ["a>b"]);
    await onEveryPrimary(servers().valkey, "function", "FLUSH", "SYNC");
    try {
      const explanation = await explainOn(servers(), flow.keys("b"), { context: { edition: undefined } });
      expect(codesOf(explanation)).toEqual(["library_missing", "upstream_not_ended"]);
      expect(explanation.summary).toMatch(/^The Valkey node of the execution has no flowfabric library/);
    } finally {
      await ensureLibrary(servers().valkey, 14);
    }
  });

  it("3: names a library of the wrong edition, and one of an unknown version", async () => {
    const fixture = fixtureOn(servers());
    const [upstream, child] = [await fixture.member(), await fixture.member()];
    await fixture.group(child, { variant: "any_of", onSatisfied: "let_run" });
    await fixture.edge(upstream, child);
    const load = (source: string) => onEveryPrimary(servers().valkey, "function", "LOAD", "REPLACE", source);
    try {
      await load(librarySource(11));
      const explanation = await explainOn(servers(), child);
      expect(codesOf(explanation)).toContain("library_mismatch");
      expect(causeOf(explanation, "library_mismatch").text).toContain(
        "an any_of group, which that edition ignores",
      );
      await load(UNKNOWN_LIBRARY);
      const unknown = await explainOn(servers(), upstream);
      expect(causeOf(unknown, "library_mismatch").text).toMatch(
        /^The loaded library has the unknown version 20/,
      );
    } finally {
      await onEveryPrimary(servers().valkey, "function", "FLUSH", "SYNC");
      await ensureLibrary(servers().valkey, 14);
    }
  });

  it("4: names a wrong partition count", async () => {
    const flow = await submitOn(servers(), ["a>b"]);
    const router = new PartitionRouter({ ...BED_ROUTER.config, numFlowPartitions: 257 });
    const explanation = await explainOn(servers(), flow.keys("b"), { context: { router } });
    expect(causeOf(explanation, "partition_count_mismatch").text).toMatch(
      /^FLOW_PARTITIONS is 257 here, and Valkey records 256 partitions\./,
    );
  });

  it("5: names an upstream that still runs", async () => {
    const flow = await submitOn(servers(), ["a>c", "b>c"]);
    await flow.fixture.claim(flow.keys("a"));
    const explanation = await explainOn(servers(), flow.keys("c"));
    expect(codesOf(explanation)).toEqual(["upstream_not_ended", "upstream_not_ended"]);
    expect(explanation.causes.map(({ text }) => text).sort()).toEqual([
      "1 upstream has not ended: active, a worker runs it.",
      "1 upstream has not ended: waiting, it waits for a worker.",
    ]);
    expect(codesOf(await explainOn(servers(), flow.keys("a")))).toEqual(["running"]);
  });

  it("6: names a dead owner, before and after its lease is marked", async () => {
    const flow = await submitOn(servers(), ["a>b"]);
    const keys = flow.keys("a");
    await flow.fixture.claim(keys, 1);
    await ageLease(flow.fixture, keys);
    const before = await explainOn(servers(), keys);
    expect(codesOf(before)).toEqual(["lease_expired"]);
    expect(causeOf(before, "lease_expired").text).toMatch(
      /^Its owner worker-1 is dead: the lease ended 5 min ago/,
    );
    expect(causeOf(before, "lease_expired").next).toContain(`sluice release '${keys.id}'`);
    await flow.fixture.done(markLeaseExpiredIfDue(flow.fixture.target(keys)));
    const after = await explainOn(servers(), keys);
    expect(codesOf(after)).toContain("lease_expired");
    expect(causeOf(after, "lease_expired").text).toContain("is marked");
  });

  it("7: names a retry that waits", async () => {
    const flow = await submitOn(servers(), ["a>b"]);
    const lease = await flow.fixture.claim(flow.keys("a"));
    await flow.fixture.fail(flow.keys("a"), lease, RETRY);
    const explanation = await explainOn(servers(), flow.keys("a"));
    expect(codesOf(explanation)).toEqual(["retry_waiting"]);
    expect(causeOf(explanation, "retry_waiting").text).toMatch(
      /^Attempt 1 failed \(it broke\), and the next one waits for another \d+ min.*retry 1\.$/,
    );
  });

  it("8: names a lane that no worker serves", async () => {
    const flow = await submitOn(servers(), ["a>b"]);
    await ageSubmission(flow);
    const explanation = await explainOn(servers(), flow.keys("a"));
    expect(codesOf(explanation)).toEqual(["lane_without_worker"]);
    expect(causeOf(explanation, "lane_without_worker")).toMatchObject({
      involved: { lanes: [flow.fixture.lane] },
      text: expect.stringMatching(
        /^It can be claimed, and waits for a worker for 5 min, and no worker serves lane/,
      ),
    });
  });

  it("9: names an undecided group", async () => {
    const fixture = fixtureOn(servers());
    const upstreams = [await fixture.member(), await fixture.member(), await fixture.member()];
    const child = await fixture.member();
    await fixture.group(child, { variant: "quorum", k: 2, onSatisfied: "let_run" });
    const edges = [];
    for (const upstream of upstreams) edges.push(await fixture.edge(upstream, child));
    const [first] = upstreams;
    const [edge] = edges;
    if (first === undefined || edge === undefined) throw new Error("no upstream");
    await fixture.finish(first, "success");
    await fixture.done(fixture.resolution(edge, "success"));
    const explanation = await explainOn(servers(), child);
    expect(codesOf(explanation)).toEqual(["group_undecided", "upstream_not_ended"]);
    expect(causeOf(explanation, "group_undecided").text).toBe(
      "Its group of edges (quorum of 2) is undecided: 1 of 3 edges succeeded, 0 did not, 2 are open. It needs 1 more success.",
    );
  });

  it("10: names a poisoned message, and leaves it in the dead-letter queue", async () => {
    const flow = await submitOn(servers(), ["a>b"]);
    await flow.fixture.finish(flow.keys("a"), "success");
    await ageEnd(flow.fixture, flow.keys("a"));
    const { client, queue } = servers().queue;
    const body = JSON.stringify({ execution_id: flow.keys("a").id, flow_id: flow.fixture.flow.id });
    // A sender that does not write the depth as a number.
    const MessageAttributes = { depth: { DataType: "String", StringValue: "deep" } };
    const message = { QueueUrl: queue.queueUrl, MessageBody: body, MessageAttributes };
    await client.send(new SendMessageCommand(message));
    expect(await processQueued(servers())).toEqual({ batchItemFailures: [] });
    const explanation = await explainOn(servers(), flow.keys("b"));
    expect(codesOf(explanation)).toEqual(["completion_dead_lettered", "completion_missing"]);
    const { text, involved, next } = causeOf(explanation, "completion_dead_lettered");
    expect(text).toMatch(
      /^1 completion is in the dead-letter queue, with the reason malformed_message \(.*the attribute depth/,
    );
    expect(involved.executions).toEqual([flow.keys("a").id]);
    expect(next[0]).toBe(`sluice dlq show ${involved.messages?.[0]}`);
    expect(await queue.counts(queue.deadLetterQueueUrl)).toEqual({ visible: 1, inFlight: 0, delayed: 0 });
    await servers().queue.drain(queue.deadLetterQueueUrl);
  });

  it("11: names the depth limit, after a restart and after the last one", async () => {
    const flow = await submitOn(servers(), ["a>b"]);
    const keys = flow.keys("a");
    await flow.fixture.finish(keys, "failed");
    await ageEnd(flow.fixture, keys);
    const ports = portsOf(servers().valkey, servers().queue, { router: BED_ROUTER, maxCascadeDepth: 3 });
    const event = (generation: number) => eventOf(keys.id, flow.fixture.flow.id, { depth: 4, generation });
    expect(await dispatchOne(ports, event(0))).toEqual([]);
    const restarted = await explainOn(servers(), flow.keys("b"));
    expect(codesOf(restarted)).toContain("depth_limit_reached");
    expect(causeOf(restarted, "depth_limit_reached").text).toMatch(
      /^The cascade reached MAX_CASCADE_DEPTH at depth 4 and was restarted .* ago \(restart 1\)/,
    );
    expect(await dispatchOne(ports, event(20))).toEqual([]);
    const stopped = await explainOn(servers(), flow.keys("b"));
    expect(causeOf(stopped, "depth_limit_reached").text).toMatch(/was stopped .* ago, after 20 restarts/);
  });

  it("12: names a cancelled flow", async () => {
    const flow = await submitOn(servers(), ["a>b"]);
    const { fixture } = flow;
    await fixture.done(cancelFlow(fixture.flow, fixture.index, "superseded", "cancel_all", 0, MINUTE_MS));
    const explanation = await explainOn(servers(), flow.keys("b"));
    expect(codesOf(explanation)).toEqual(["flow_cancelled", "upstream_not_ended"]);
    expect(causeOf(explanation, "flow_cancelled").text).toMatch(
      /was cancelled .* ago \(superseded\), with the policy cancel_all\. The execution is still to be cancelled/,
    );
  });

  it("13: names an upstream without a record, and a flow that was deleted", async () => {
    const flow = await submitOn(servers(), ["a>b"]);
    const { fixture } = flow;
    // As FlowFabric's trimmer deletes an execution that ended.
    await fixture.finish(flow.keys("a"), "success");
    await fixture.read("del", flow.keys("a").core, flow.keys("a").tags);
    const explanation = await explainOn(servers(), flow.keys("b"));
    expect(codesOf(explanation)).toEqual(["upstream_purged"]);
    expect(causeOf(explanation, "upstream_purged").involved.executions).toEqual([flow.keys("a").id]);

    const ended = await submitOn(servers(), ["c>d"]);
    await ended.fixture.finish(ended.keys("c"), "failed");
    await servers().queue.drain();
    const ports = portsOf(servers().valkey, servers().queue, { router: BED_ROUTER });
    await dispatchOne(ports, eventOf(ended.keys("c").id, ended.fixture.flow.id));
    await ended.fixture.read("zadd", ended.fixture.index.flowsEnded, "XX", 1, ended.fixture.flow.id);
    const tasks = [retention({ retentionMs: MINUTE_MS, flowEnds: undefined })];
    await sweep(servers().ports([ended.fixture], { tasks, router: BED_ROUTER }));
    const unknown = await explainOn(servers(), ended.keys("d"));
    expect(unknown).toMatchObject({ exists: false });
    expect(codesOf(unknown)).toEqual(["execution_not_found"]);
    const purged = await explainOn(servers(), ended.keys("d"), { flow: ended.fixture.flow.id });
    expect(codesOf(purged)).toEqual(["execution_purged"]);
  });

  it("14: names the failure five levels above a skip, with its reason and the chain", async () => {
    const flow = await submitOn(servers(), ["a>b", "b>c", "c>d", "d>e", "e>f", "other>f"]);
    await flow.fixture.finish(flow.keys("a"), "failed");
    const publisher = new SqsCompletionPublisher(servers().queue.client, servers().queue.queue.queueUrl);
    const { id: flowId } = flow.fixture.flow;
    const { id } = flow.keys("a");
    await publisher.send([{ executionId: id, flowId, outcome: "failed", depth: 0, root: id }]);
    expect(await dispatchQueued(servers())).toBe(6);
    const explanation = await explainOn(servers(), flow.keys("f"));
    expect(codesOf(explanation)).toEqual(["skipped"]);
    expect(causeOf(explanation, "skipped").text).toBe(
      `It was skipped because of a (${id}), 5 levels above: failed: it broke.`,
    );
    expect(explanation.skip).toMatchObject({
      root_execution_id: id,
      root_task: "a",
      root_reason: "failed: it broke",
      is_complete: true,
    });
    expect(explanation.skip?.chain.map(({ task, outcome, reason }) => [task, outcome, reason])).toEqual([
      ["e", "skipped", ""],
      ["d", "skipped", ""],
      ["c", "skipped", ""],
      ["b", "skipped", ""],
      ["a", "failed", "it broke"],
    ]);
    expect(explanation.next[0]).toBe(`sluice replay '${id}' --descendants --dry-run`);
  });
});

/** Lets a lease of a few milliseconds look as if it had ended five minutes ago, everywhere where its end is stored. */
async function ageLease(fixture: FlowFixture, keys: Parameters<FlowFixture["claim"]>[0]): Promise<void> {
  const endedAt = Date.now() - 5 * MINUTE_MS;
  await fixture.read("hset", keys.core, "lease_expires_at", endedAt);
  await fixture.read("hset", keys.leaseCurrent, "expires_at", endedAt);
  await fixture.read("zadd", fixture.index.leaseExpiry, "XX", endedAt, keys.id);
}

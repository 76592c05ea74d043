import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { type Edge, stageDependencyEdge } from "#shared/contract/submission.ts";
import { fixturesOn } from "#test/support/expectations.ts";
import type { FlowFixture } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS, keysOf } from "#test/support/valkey.ts";

const NODES = 20_000;
const CHUNK = 2_000;
/** Well below the five seconds after which a server replies BUSY to other clients. */
const ONE_CALL_MS = 1_500;

type Link = readonly [upstream: number, downstream: number];

/** Creates a flow with `count` members. They have no records: staging reads only the flow's keys. */
async function membersOf(fixture: FlowFixture, count: number): Promise<ExecKeys[]> {
  await fixture.createFlow();
  const members = Array.from({ length: count }, () => fixture.newExecution());
  await fixture.read("sadd", fixture.flow.members, ...members.map(({ id }) => id));
  return members;
}

function edgeOf(fixture: FlowFixture, members: readonly ExecKeys[], [upstream, downstream]: Link): Edge {
  const [from, to] = [members[upstream], members[downstream]];
  if (from === undefined || to === undefined) throw new RangeError("no such member");
  return fixture.newEdge(from, to);
}

/** Stages edges, and expects that all are accepted. Returns the duration in milliseconds. */
async function stageAll(
  fixture: FlowFixture,
  members: readonly ExecKeys[],
  links: readonly Link[],
  firstRevision = 0,
): Promise<number> {
  const from = performance.now();
  for (let start = 0; start < links.length; start += CHUNK) {
    const chunk = links.slice(start, start + CHUNK);
    const results = await fixture.valkey.pipelined(
      chunk.map((link, index) => {
        const revision = firstRevision + start + index;
        return stageDependencyEdge(fixture.flow, edgeOf(fixture, members, link), revision, 1);
      }),
    );
    const last = firstRevision + start + chunk.length;
    const reply = results.at(-1);
    // Each call expects the revision of its predecessor, so the success of the last one implies that of all.
    expect(reply).toEqual({ ok: true, value: [1, "OK", expect.any(String), String(last)] });
  }
  return performance.now() - from;
}

async function expectCycle(fixture: FlowFixture, members: readonly ExecKeys[], link: Link, revision: number) {
  const from = performance.now();
  const reply = await fixture.call(
    stageDependencyEdge(fixture.flow, edgeOf(fixture, members, link), revision, 1),
  );
  expect(reply).toEqual({ kind: "refused", code: "cycle_detected", detail: [] });
  expect(performance.now() - from).toBeLessThan(ONE_CALL_MS);
}

function shuffled<T>(items: readonly T[]): T[] {
  // A fixed seed gives the same order in every run.
  let state = 12_345;
  const keyed = items.map((item) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return { item, key: state };
  });
  return keyed.sort((left, right) => left.key - right.key).map(({ item }) => item);
}

const CHAIN: readonly Link[] = Array.from({ length: NODES - 1 }, (_, index) => [index, index + 1]);

describe.each(DEPLOYMENTS)("cycle detection ($name)", (deployment) => {
  const newFixture = fixturesOn(deployment);
  let fixture: FlowFixture;

  beforeEach(() => {
    fixture = newFixture();
  });

  // Tens of thousands of keys would slow down later tests that scan the shared server.
  afterEach(async () => {
    const keys = await keysOf(fixture.valkey, fixture.flow.partition);
    for (let start = 0; start < keys.length; start += CHUNK) {
      await fixture.read("unlink", ...keys.slice(start, start + CHUNK));
    }
  });

  test.each([
    ["staged from its root", CHAIN],
    ["staged from its leaf", CHAIN.toReversed()],
    ["staged in random order", shuffled(CHAIN)],
  ])("accepts a chain of 20,000 %s, and refuses to close it to a cycle", async (_order, links) => {
    const members = await membersOf(fixture, NODES);
    expect(await stageAll(fixture, members, links)).toBeLessThan(25_000);
    await expectCycle(fixture, members, [NODES - 1, 0], NODES - 1);
    await expectCycle(fixture, members, [NODES / 2 + 1, NODES / 2 - 1], NODES - 1);
    // A second path in the same direction is not a cycle.
    await stageAll(fixture, members, [[0, NODES - 1]], NODES - 1);
  });

  test("accepts a star of 20,000, with the outgoing edges first, and refuses cycles in it", async () => {
    const members = await membersOf(fixture, NODES);
    const half = NODES / 2;
    const into: Link[] = Array.from({ length: half - 1 }, (_, index) => [index + 1, 0]);
    const outOf: Link[] = Array.from({ length: half }, (_, index) => [0, half + index]);
    expect(await stageAll(fixture, members, [...outOf, ...into])).toBeLessThan(25_000);
    await expectCycle(fixture, members, [NODES - 1, 1], NODES - 1);
    await expectCycle(fixture, members, [0, 1], NODES - 1);
  });

  test("refuses every cycle in a small graph, and writes nothing", async () => {
    const members = await membersOf(fixture, 8);
    // Two diamonds in sequence.
    const links: Link[] = [
      [0, 1],
      [0, 2],
      [1, 3],
      [2, 3],
      [3, 4],
      [4, 5],
      [4, 6],
      [5, 7],
      [6, 7],
    ];
    await stageAll(fixture, members, links);
    const before = await fixture.snapshot();
    const reaches = transitiveClosure(links, members.length);
    for (const [from, row] of reaches.entries()) {
      for (const [to, isReachable] of row.entries()) {
        if (!isReachable) continue;
        await expectCycle(fixture, members, [to, from], links.length);
      }
    }
    expect(await fixture.snapshot()).toEqual(before);
  });

  test("in random graphs, refuses an edge exactly if it would close a cycle", async () => {
    const size = 12;
    const members = await membersOf(fixture, size);
    const every: Link[] = Array.from(
      { length: size * size },
      (_, at): Link => [Math.floor(at / size), at % size],
    ).filter(([from, to]) => from !== to);
    const accepted: Link[] = [];
    for (const link of shuffled(every).slice(0, 60)) {
      const closes = transitiveClosure(accepted, size)[link[1]]?.[link[0]] === true;
      const reply = await fixture.call(
        stageDependencyEdge(fixture.flow, edgeOf(fixture, members, link), accepted.length, 1),
      );
      expect([link, reply.kind === "refused" ? reply.code : "accepted"]).toEqual([
        link,
        closes ? "cycle_detected" : "accepted",
      ]);
      if (!closes) accepted.push(link);
    }
    expect(accepted.length).toBeGreaterThan(10);
    expect(accepted.length).toBeLessThan(60);
  });
});

function transitiveClosure(links: readonly Link[], size: number): boolean[][] {
  const reaches = Array.from({ length: size }, () => new Array<boolean>(size).fill(false));
  for (const [from, to] of links) {
    const row = reaches[from];
    if (row !== undefined) row[to] = true;
  }
  for (let via = 0; via < size; via += 1) {
    for (const row of reaches) {
      if (row[via] !== true) continue;
      for (const [to, isReachable] of (reaches[via] ?? []).entries()) if (isReachable) row[to] = true;
    }
  }
  return reaches;
}

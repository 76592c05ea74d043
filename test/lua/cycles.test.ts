import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { type Edge, stageDependencyEdge } from "#shared/contract/submission.ts";
import { fixturesOn } from "#test/support/expectations.ts";
import type { FlowFixture } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS, keysOf } from "#test/support/valkey.ts";

const NODES = 20_000;
const MAX_PIPELINE_LENGTH = 2_000;
/** Far below the five seconds after which a server answers BUSY. */
const ONE_CALL_MS = 1_500;

type Link = readonly [upstream: number, downstream: number];

/** A flow with so many members, without records: staging looks at nothing but the flow. */
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

/** Stages edges, which must all be accepted; how long it took, in milliseconds. */
async function stageAll(
  fixture: FlowFixture,
  members: readonly ExecKeys[],
  links: readonly Link[],
  firstRevision = 0,
): Promise<number> {
  const from = performance.now();
  for (let start = 0; start < links.length; start += MAX_PIPELINE_LENGTH) {
    const chunk = links.slice(start, start + MAX_PIPELINE_LENGTH);
    const results = await fixture.valkey.pipelined(
      chunk.map((link, index) => {
        const revision = firstRevision + start + index;
        return stageDependencyEdge(fixture.flow, edgeOf(fixture, members, link), revision, 1);
      }),
    );
    const last = firstRevision + start + chunk.length;
    const reply = results.at(-1);
    // Every call names the revision before it, so the last one's success is everyone's.
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
  // A fixed seed: the same order in every run.
  let state = 12_345;
  const keyed = items.map((item) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return { item, key: state };
  });
  return keyed.sort((left, right) => left.key - right.key).map(({ item }) => item);
}

const CHAIN: readonly Link[] = Array.from({ length: NODES - 1 }, (_, index) => [index, index + 1]);

describe.each(DEPLOYMENTS)("cycles on $name", (deployment) => {
  const newScene = fixturesOn(deployment);
  let fixture: FlowFixture;

  beforeEach(() => {
    fixture = newScene();
  });

  // Tens of thousands of keys would slow down whoever scans the shared server later.
  afterEach(async () => {
    const keys = await keysOf(fixture.valkey, fixture.flow.partition);
    for (let start = 0; start < keys.length; start += MAX_PIPELINE_LENGTH) {
      await fixture.read("unlink", ...keys.slice(start, start + MAX_PIPELINE_LENGTH));
    }
  });

  test.each([
    ["from its root", CHAIN],
    ["from its leaf", CHAIN.toReversed()],
    ["in any order", shuffled(CHAIN)],
  ])("a chain of 20,000 is accepted %s, and cannot be closed", async (_order, links) => {
    const members = await membersOf(fixture, NODES);
    expect(await stageAll(fixture, members, links)).toBeLessThan(25_000);
    await expectCycle(fixture, members, [NODES - 1, 0], NODES - 1);
    await expectCycle(fixture, members, [NODES / 2 + 1, NODES / 2 - 1], NODES - 1);
    // The long way in the right direction is none.
    await stageAll(fixture, members, [[0, NODES - 1]], NODES - 1);
  });

  test("a star of 20,000, in and out, is accepted whichever half comes first", async () => {
    const members = await membersOf(fixture, NODES);
    const half = NODES / 2;
    const into: Link[] = Array.from({ length: half - 1 }, (_, index) => [index + 1, 0]);
    const outOf: Link[] = Array.from({ length: half }, (_, index) => [0, half + index]);
    expect(await stageAll(fixture, members, [...outOf, ...into])).toBeLessThan(25_000);
    await expectCycle(fixture, members, [NODES - 1, 1], NODES - 1);
    await expectCycle(fixture, members, [0, 1], NODES - 1);
  });

  test("a cycle through every edge of a small graph is found, and a refusal writes nothing", async () => {
    const members = await membersOf(fixture, 8);
    // Two diamonds, one behind the other.
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

  test("random graphs: an edge is refused just when it would close a cycle", async () => {
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

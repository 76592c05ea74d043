/**
 * Runs random sequences of calls on the library and on a model of the contract, and compares reply and state after each,
 * and what was published at the end.
 * DIFFERENTIAL_RUNS sets the number of sequences for each deployment.
 */

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { checkConsistency } from "#shared/consistency/check.ts";
import { describeFinding } from "#shared/consistency/finding.ts";
import { command } from "#shared/contract/command.ts";
import type { EdgeGroupPolicy } from "#shared/contract/groups.ts";
import { COMPLETIONS_CHANNEL } from "#shared/contract/keys.ts";
import type { Reply } from "#shared/contract/reply.ts";
import { replyOrThrow, valueOrThrow } from "#shared/valkey/batches.ts";
import { Model, type World } from "#test/differential/model.ts";
import { type Bench, comparable, readsOf, worldOf } from "#test/differential/observe.ts";
import { type Call, prepare, STEP_NAMES, type Step, steps, WORKERS } from "#test/differential/steps.ts";
import { type CompletionFeed, subscribeToCompletions } from "#test/support/completions.ts";
import { fixturesOn } from "#test/support/expectations.ts";
import type { FlowFixture } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

const RUNS = Number(process.env.DIFFERENTIAL_RUNS ?? 25);
/** Ends the search for a shorter sequence, too. */
const LIMIT_MS = 60_000 + 500 * RUNS;
const END = "end";
const MIN_STEPS = 1;
const MAX_STEPS = 60;
const FUTURE = 4_000_000_000_000;

interface Sequence {
  readonly policy: EdgeGroupPolicy | undefined;
  readonly steps: readonly Step[];
}

const onSatisfied = fc.constantFrom("let_run" as const, "cancel_remaining" as const);
const sequences: fc.Arbitrary<Sequence> = fc.record({
  policy: fc.oneof(
    fc.constant(undefined),
    fc.record({ variant: fc.constant("any_of" as const), onSatisfied }),
    fc.record({ variant: fc.constant("quorum" as const), onSatisfied, k: fc.integer({ min: 1, max: 3 }) }),
  ),
  steps: fc.noBias(fc.array(steps, { minLength: MIN_STEPS, maxLength: MAX_STEPS, size: "max" })),
});

/** The steps that were not refused in at least one sequence. */
const accepted = new Set<string>();

describe.each(DEPLOYMENTS_OF_BOTH)(
  "the library and a model of the contract ($name, $edition KEYS)",
  (deployment) => {
    const newFixture = fixturesOn(deployment);

    test(
      "reply the same and leave the same state, whatever the sequence of calls",
      async () => {
        await fc.assert(
          fc.asyncProperty(sequences, async ({ policy, steps: sequence }) => {
            const fixture = newFixture();
            using feed = await subscribeToCompletions(deployment, fixture.flow.id);
            const bench = await benchOf(fixture, policy);
            let world = await observe(bench);
            for (const step of sequence) {
              const prepared = await prepare(bench, world, step);
              if (prepared === undefined) continue;
              const { name, call } = prepared;
              const { reply, world: next } = await runOnBoth(bench, world, call, { ...step, name });
              world = next;
              if (reply.kind === "done") accepted.add(name);
            }
            expect(await publishedBy(fixture, feed)).toEqual(world.published);
            const { partition } = fixture.flow;
            const findings = await checkConsistency(fixture, { partition, settleMs: 0 });
            expect(findings.map(describeFinding)).toEqual([]);
          }),
          { numRuns: RUNS, interruptAfterTimeLimit: LIMIT_MS, markInterruptAsFailure: true },
        );
      },
      2 * LIMIT_MS,
    );
  },
);

test("the sequences call each function so that it does what it is for", () => {
  // A step that is always refused compares nothing but the refusal.
  expect(STEP_NAMES.filter((name) => !accepted.has(name))).toEqual([]);
});

/** Returns the published completions of a flow, as `<execution> <outcome>`. */
async function publishedBy(fixture: FlowFixture, feed: CompletionFeed): Promise<string[]> {
  // Sent by the node of the flow, after all its events.
  const end = JSON.stringify({ execution_id: END, flow_id: fixture.flow.id });
  await fixture.read("publish", COMPLETIONS_CHANNEL, end);
  const published: string[] = [];
  for (;;) {
    const { execution_id: execution, outcome } = JSON.parse(await feed.next());
    if (execution === END) return published;
    published.push(`${execution} ${outcome}`);
  }
}

/** A flow of five members: 2 waits for 0 and 1, 3 is delayed, and 4 has a deadline. */
async function benchOf(fixture: FlowFixture, policy: EdgeGroupPolicy | undefined): Promise<Bench> {
  const executions = [await fixture.member(), await fixture.member(), await fixture.member({ priority: 3 })];
  executions.push(await fixture.member({ delayUntil: FUTURE }), await fixture.member({ deadlineAt: FUTURE }));
  const bench: Bench = {
    fixture,
    executions,
    edges: [],
    instances: WORKERS.map(({ instanceId }) => instanceId),
  };
  const [first, second, child] = executions;
  if (first === undefined || second === undefined || child === undefined) throw new RangeError("no members");
  if (policy !== undefined && fixture.edition === 14) await fixture.group(child, policy);
  for (const upstream of [first, second]) {
    bench.edges.push({ edge: await fixture.edge(upstream, child), downstream: 2 });
  }
  return bench;
}

async function observe(bench: Bench): Promise<World> {
  const results = await bench.fixture.valkey.pipelined(readsOf(bench));
  return worldOf(bench, results.map(valueOrThrow));
}

/**
 * Sends a call between two readings of the server's clock, and finds the moment between them at which the model replies
 * and ends up the same. Returns the model's state.
 */
async function runOnBoth(
  bench: Bench,
  before: World,
  call: Call,
  step: Step,
): Promise<{ reply: Reply; world: World }> {
  const { partition } = bench.fixture.flow;
  const time = command(partition, "time");
  const reads = readsOf(bench);
  const results = (await bench.fixture.valkey.pipelined([time, ...call.commands, time, ...reads])).map(
    valueOrThrow,
  );
  const [from, to] = [milliseconds(results[0]), milliseconds(results[call.commands.length + 1])];
  const reply = call.hasReply ? sorted(replyOrThrow(results[1])) : undefined;
  const after = comparable(worldOf(bench, results.slice(call.commands.length + 2)));
  let first: { reply: Reply; state: unknown } | undefined;
  for (let now = from; now <= to; now += 1) {
    const world = structuredClone(before);
    const expected = sorted(call.run(new Model(world, now)));
    const state = comparable(world);
    const isSame = (reply === undefined || equal(reply, expected)) && equal(state, after);
    if (isSame) return { reply: expected, world };
    first ??= { reply: expected, state };
  }
  const label = `${JSON.stringify(step)} at ${from} to ${to}`;
  expect({ reply: reply ?? first?.reply, state: after }, label).toEqual(first);
  throw new Error(`the comparison found a difference that toEqual does not see: ${label}`);
}

/** The members in the reply of ff_cancel_flow, the policy and five ids or more, have no order. */
function sorted(reply: Reply): Reply {
  return reply.kind === "done" && reply.fields.length > 4
    ? { ...reply, fields: reply.fields.toSorted() }
    : reply;
}

function equal(left: unknown, right: unknown): boolean {
  return JSON.stringify(canonical(left)) === JSON.stringify(canonical(right));
}

function canonical(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(canonical);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).filter(([, one]) => one !== undefined);
  return Object.fromEntries(
    entries.sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, one]) => [name, canonical(one)]),
  );
}

function milliseconds(time: unknown): number {
  const [seconds = 0, microseconds = 0] = Array.isArray(time) ? time.map(Number) : [];
  return seconds * 1_000 + Math.floor(microseconds / 1_000);
}

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { replayExecution } from "#shared/contract/graph.ts";
import type { EdgeGroupPolicy } from "#shared/contract/groups.ts";
import type { TerminalOutcome } from "#shared/contract/record.ts";
import type { Reply } from "#shared/contract/reply.ts";
import { groupedChild, groupOf, NOW } from "#test/lua/grouped-child.ts";
import { expectOnlyIn, fixturesOn } from "#test/support/expectations.ts";
import { DEPLOYMENTS_14 } from "#test/support/valkey.ts";

const RUNS = 200;

/** The child's state, by its public state. */
const INDEXES = {
  waiting_children: "blockedDependencies",
  waiting: "eligible",
  skipped: "terminal",
} as const;

/** A model of a group: the expected reply and state after each call. */
class ModelGroup {
  readonly edges: ("unsatisfied" | "satisfied" | "impossible")[];
  readonly counts = { succeeded: 0, failed: 0, skipped: 0 };
  readonly #needed: number | "all";
  state = "pending";
  child: keyof typeof INDEXES = "waiting_children";

  constructor(size: number, needed: number | "all") {
    this.edges = Array.from({ length: size }, () => "unsatisfied" as const);
    this.#needed = needed;
  }

  resolve(edge: number, outcome: TerminalOutcome): string[] {
    if (this.edges[edge] !== "unsatisfied") return ["already_resolved"];
    const all = this.#needed === "all";
    this.edges[edge] = outcome === "success" ? "satisfied" : "impossible";
    this.counts[outcome === "success" ? "succeeded" : outcome === "skipped" && !all ? "skipped" : "failed"] +=
      1;
    const verdict = this.#verdict();
    if (!all && this.state !== "pending") return ["already_fired", ""];
    const wasOpen = this.child === "waiting_children";
    this.state = verdict;
    if (wasOpen && verdict !== "pending") this.child = verdict === "satisfied" ? "waiting" : "skipped";
    if (all)
      return outcome === "success" ? ["satisfied", ""] : ["impossible", wasOpen ? "child_skipped" : ""];
    return [verdict, verdict === "impossible" ? "child_skipped" : ""];
  }

  /** Undefined if the call is refused. */
  replay(): string[] | undefined {
    const succeeded = this.edges.filter((edge) => edge === "satisfied").length;
    if (this.child !== "skipped" || (this.#needed !== "all" && this.#needed > this.edges.length))
      return undefined;
    for (const [edge, state] of this.edges.entries())
      if (state === "impossible") this.edges[edge] = "unsatisfied";
    Object.assign(this.counts, { succeeded, failed: 0, skipped: 0 });
    this.state = "pending";
    this.child = "waiting_children";
    return [String(this.edges.length - succeeded)];
  }

  #verdict(): string {
    const { succeeded, failed, skipped } = this.counts;
    const needed = this.#needed === "all" ? this.edges.length : this.#needed;
    if (failed + skipped > this.edges.length - needed) return "impossible";
    return succeeded >= needed ? "satisfied" : "pending";
  }
}

interface Case {
  readonly policy: EdgeGroupPolicy | undefined;
  readonly size: number;
  readonly steps: readonly ("replay" | { readonly edge: number; readonly outcome: TerminalOutcome })[];
}

const cases: fc.Arbitrary<Case> = fc.integer({ min: 1, max: 6 }).chain((size) => {
  const onSatisfied = fc.constantFrom("let_run" as const, "cancel_remaining" as const);
  const outcome = fc.oneof(
    fc.constant("success" as const),
    fc.constantFrom("failed" as const, "skipped" as const, "cancelled" as const, "expired" as const),
  );
  const resolution = fc.record({ edge: fc.nat({ max: size - 1 }), outcome });
  return fc.record({
    size: fc.constant(size),
    policy: fc.oneof(
      fc.constant(undefined),
      fc.constant({ variant: "all_of" as const }),
      fc.record({ variant: fc.constant("any_of" as const), onSatisfied }),
      fc.record({
        variant: fc.constant("quorum" as const),
        onSatisfied,
        k: fc.integer({ min: 1, max: size + 1 }),
      }),
    ),
    steps: fc.array(
      fc.oneof(
        { weight: 9, arbitrary: resolution },
        { weight: 1, arbitrary: fc.constant("replay" as const) },
      ),
      { minLength: size, maxLength: 4 * size },
    ),
  });
});

function neededBy(policy: EdgeGroupPolicy | undefined): number | "all" {
  if (policy?.variant === "any_of") return 1;
  return policy?.variant === "quorum" ? policy.k : "all";
}

describe.each(DEPLOYMENTS_14)(
  "random groups, outcomes, orders, repeats and replays ($name)",
  (deployment) => {
    const newFixture = fixturesOn(deployment);

    test("replies, counts and decides like the model", async () => {
      const seen = new Map<string, number>();
      await fc.assert(
        fc.asyncProperty(cases, async ({ policy, size, steps }) => {
          const fixture = newFixture();
          const { child, edges, edge } = await groupedChild(fixture, policy, size);
          const meta = await fixture.hash(child.depsMeta);
          const model = new ModelGroup(size, neededBy(policy));
          const ids = edges.map(({ id }) => id);
          const replay = replayExecution(child, fixture.index, fixture.lane, ids, NOW);
          let replayed = false;
          for (const step of steps) {
            const expected = step === "replay" ? model.replay() : model.resolve(step.edge, step.outcome);
            const reply = await fixture.call(
              step === "replay" ? replay : fixture.resolution(edge(step.edge), step.outcome, NOW),
            );
            expect(fieldsOf(reply)).toEqual(expected);
            replayed ||= step === "replay" && expected !== undefined;
            const label = expected === undefined ? "refused" : `${policy?.variant}: ${expected.join()}`;
            seen.set(label, (seen.get(label) ?? 0) + 1);
            const { succeeded, failed, skipped } = model.counts;
            const group = await groupOf(fixture, child);
            const counted = [group.n, group.succeeded, group.failed ?? "0", group.skipped ?? "0"];
            expect(counted.map(Number)).toEqual([size, succeeded, failed, skipped]);
            expect(group.group_state).toBe(model.state);
          }
          expect((await fixture.hash(child.core)).public_state).toBe(model.child);
          await expectOnlyIn(fixture, child, INDEXES[model.child]);
          const states = await Promise.all(ids.map(async (id) => (await fixture.hash(child.dep(id))).state));
          expect(states).toEqual(model.edges);
          const open = model.edges.filter((one) => one === "unsatisfied").length;
          expect(await fixture.read("scard", child.depsUnresolved)).toBe(open);
          if (neededBy(policy) !== "all" && !replayed)
            expect(await fixture.hash(child.depsMeta)).toEqual(meta);
        }),
        { numRuns: RUNS },
      );
      // The generator must reach every kind of decision, or the test proves nothing.
      for (const variant of ["any_of", "quorum"]) {
        for (const reply of ["satisfied,", "impossible,child_skipped", "pending,", "already_fired,"]) {
          expect(seen.get(`${variant}: ${reply}`), `${variant}: ${reply}`).toBeGreaterThan(0);
        }
      }
      expect(seen.get("all_of: impossible,child_skipped")).toBeGreaterThan(0);
      expect(seen.get("refused")).toBeGreaterThan(0);
    }, 120_000);
  },
);

function fieldsOf(reply: Reply): readonly string[] | undefined {
  return reply.kind === "done" ? reply.fields : undefined;
}

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import {
  formatCheckpoints,
  newSweep,
  parseCheckpoints,
  SweepProgress,
} from "#shared/reconcile/checkpoint.ts";
import type { IndexFamily, IndexPosition } from "#shared/reconcile/indexes.ts";

const PARTITIONS = new PartitionRouter({
  numFlowPartitions: 12,
  numBudgetPartitions: 1,
  numQuotaPartitions: 1,
}).partitions;
const LANES = ["b", "a", "with, comma", "z"].map((name) => unwrap(parseLaneId(name)));

const FAMILIES: readonly IndexFamily[] = [
  { name: "first", paging: "due", isPerLane: false, keyOf: (keys) => keys.leaseExpiry },
  { name: "of lanes", paging: "zset", isPerLane: true, keyOf: (keys) => keys.blockedDependencies },
  { name: "last", paging: "set", isPerLane: false, keyOf: (keys) => keys.pendingCancelGroups },
];
const TASK = { name: "leases", families: FAMILIES } as const;

type Step = "done" | "more" | "failed" | "resume";
const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    { weight: 5, arbitrary: fc.constant<Step>("done") },
    { weight: 3, arbitrary: fc.constant<Step>("more") },
    { weight: 2, arbitrary: fc.constant<Step>("failed") },
    { weight: 1, arbitrary: fc.constant<Step>("resume") },
  ),
  { maxLength: 300 },
);

const nameOf = ({ family, lane, partition }: Omit<IndexPosition, "cursor">): string =>
  `${family.name} ${lane} ${partition}`;

describe("the checkpoint of a sweep", () => {
  it("finishes each index once, or fails it twice, whatever fails and wherever a run stops", () => {
    let retried = 0;
    fc.assert(
      fc.property(
        fc.subarray([...FAMILIES], { minLength: 1 }),
        fc.subarray(LANES, { minLength: 1 }),
        fc.integer({ min: 1, max: 12 }),
        fc.integer({ min: 1, max: 20 }),
        steps,
        (families, lanes, partitionCount, limit, script) => {
          const scope = { families, lanes, partitions: PARTITIONS.slice(0, partitionCount) };
          let progress = new SweepProgress(scope, newSweep(1));
          const done = new Map<string, number>();
          const failures = new Map<string, number>();
          const remaining = script.values();
          for (let indexes = progress.next(limit); indexes.length > 0; indexes = progress.next(limit)) {
            for (const index of indexes) {
              const step = remaining.next().value ?? "done";
              if (step === "resume") {
                const text = formatCheckpoints(new Map([["leases", progress.checkpoint]]));
                const known = { tasks: [{ name: "leases", families } as const], ...scope };
                const checkpoint = parseCheckpoints(text, known)?.get("leases");
                if (checkpoint === undefined) throw new Error("the checkpoint does not parse");
                expect(checkpoint).toEqual(progress.checkpoint);
                progress = new SweepProgress(scope, checkpoint);
                break;
              }
              if (step === "more") progress.advance(index, "1700000000000.5+17");
              else if (step === "done") {
                progress.advance(index, "0");
                done.set(nameOf(index), (done.get(nameOf(index)) ?? 0) + 1);
              } else {
                progress.fail(index);
                failures.set(nameOf(index), (failures.get(nameOf(index)) ?? 0) + 1);
              }
            }
          }
          const unread = new Set(progress.checkpoint.failed.map(nameOf));
          const indexes = families.flatMap((family) =>
            (family.isPerLane ? lanes : [undefined]).flatMap((lane) =>
              scope.partitions.map((partition) => nameOf({ family, lane, partition })),
            ),
          );
          for (const name of indexes) {
            expect((done.get(name) ?? 0) + (unread.has(name) ? 1 : 0)).toBe(1);
            if (unread.has(name)) expect(failures.get(name)).toBe(2);
            if (failures.get(name) === 1) retried += 1;
          }
        },
      ),
      { numRuns: 300 },
    );
    expect(retried).toBeGreaterThan(0);
  });

  const VALID = { started_at: 1, last: null, open: [], failed: [], second_look: false };

  it.each([
    ["invalid JSON", "{"],
    ["no object", "[]"],
    ["no task", "{}"],
    ["the checkpoint of an earlier release", JSON.stringify(VALID)],
    ["an unknown family", JSON.stringify({ leases: { ...VALID, last: ["other", null, 1, "0"] } })],
    ["an invalid lane", JSON.stringify({ leases: { ...VALID, last: ["of lanes", "", 1, "0"] } })],
    ["a missing lane", JSON.stringify({ leases: { ...VALID, last: ["of lanes", null, 1, "0"] } })],
    ["a lane too many", JSON.stringify({ leases: { ...VALID, last: ["first", "a", 1, "0"] } })],
    ["an unknown partition", JSON.stringify({ leases: { ...VALID, open: [["first", null, 12, "0"]] } })],
    ["an invalid cursor", JSON.stringify({ leases: { ...VALID, open: [["first", null, 1, "x y"]] } })],
    ["a missing field", JSON.stringify({ leases: { ...VALID, failed: undefined } })],
  ])("is undefined if it is malformed: %s", (_, text) => {
    expect(parseCheckpoints(text, { tasks: [TASK], partitions: PARTITIONS })).toBeUndefined();
  });

  it("leaves out tasks that do not run any more", () => {
    const text = JSON.stringify({ leases: VALID, delays: { ...VALID, last: ["unknown"] } });
    const parsed = parseCheckpoints(text, { tasks: [TASK], partitions: PARTITIONS });
    expect([...(parsed?.keys() ?? [])]).toEqual(["leases"]);
    expect(
      parseCheckpoints(JSON.stringify({ delays: VALID }), { tasks: [TASK], partitions: PARTITIONS }),
    ).toEqual(new Map());
  });
});

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import {
  formatCheckpoint,
  type LaneIndex,
  newSweep,
  parseCheckpoint,
  SweepProgress,
} from "#shared/reconcile/checkpoint.ts";

const PARTITIONS = new PartitionRouter({
  numFlowPartitions: 12,
  numBudgetPartitions: 1,
  numQuotaPartitions: 1,
}).partitions;
const LANES = ["b", "a", "with, comma", "z"].map((name) => unwrap(parseLaneId(name)));

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

const nameOf = ({ lane, partition }: LaneIndex): string => `${lane} ${partition}`;

describe("the checkpoint of a sweep", () => {
  it("finishes each index once, or fails it twice, whatever fails and wherever a run stops", () => {
    let retried = 0;
    fc.assert(
      fc.property(
        fc.subarray(LANES, { minLength: 1 }),
        fc.integer({ min: 1, max: 12 }),
        fc.integer({ min: 1, max: 20 }),
        steps,
        (lanes, partitionCount, limit, script) => {
          const scope = { lanes, partitions: PARTITIONS.slice(0, partitionCount) };
          let progress = new SweepProgress(scope, newSweep(1));
          const done = new Map<string, number>();
          const failures = new Map<string, number>();
          const remaining = script.values();
          for (let indexes = progress.next(limit); indexes.length > 0; indexes = progress.next(limit)) {
            for (const index of indexes) {
              const step = remaining.next().value ?? "done";
              if (step === "resume") {
                const checkpoint = parseCheckpoint(formatCheckpoint(progress.checkpoint), scope.partitions);
                if (checkpoint === undefined) throw new Error("the checkpoint does not parse");
                expect(checkpoint).toEqual(progress.checkpoint);
                progress = new SweepProgress(scope, checkpoint);
                break;
              }
              if (step === "more") progress.advance(index, "17");
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
          for (const lane of lanes) {
            for (const partition of scope.partitions) {
              const name = nameOf({ lane, partition, cursor: "0" });
              expect((done.get(name) ?? 0) + (unread.has(name) ? 1 : 0)).toBe(1);
              if (unread.has(name)) expect(failures.get(name)).toBe(2);
              if (failures.get(name) === 1) retried += 1;
            }
          }
        },
      ),
      { numRuns: 300 },
    );
    expect(retried).toBeGreaterThan(0);
  });

  it.each([
    ["invalid JSON", "{"],
    ["an invalid lane", '{"started_at":1,"last":["",1,"0"],"open":[],"failed":[],"second_look":false}'],
    [
      "an unknown partition",
      '{"started_at":1,"last":null,"open":[["a",12,"0"]],"failed":[],"second_look":false}',
    ],
    [
      "an invalid cursor",
      '{"started_at":1,"last":null,"open":[["a",1,"x"]],"failed":[],"second_look":false}',
    ],
    ["a missing field", '{"started_at":1,"last":null,"open":[],"second_look":false}'],
  ])("is undefined if it is malformed: %s", (_, text) => {
    expect(parseCheckpoint(text, PARTITIONS)).toBeUndefined();
  });
});

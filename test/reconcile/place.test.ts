import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import { beginning, formatPlace, Progress, parsePlace, type Unit } from "#shared/reconcile/place.ts";

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

const nameOf = ({ lane, partition }: Unit): string => `${lane} ${partition}`;

describe("a sweep's place", () => {
  it("passes over no index, whatever fails and wherever a run stops", () => {
    let secondLooks = 0;
    fc.assert(
      fc.property(
        fc.subarray(LANES, { minLength: 1 }),
        fc.integer({ min: 1, max: 12 }),
        fc.integer({ min: 1, max: 20 }),
        steps,
        (lanes, partitionCount, limit, script) => {
          const scope = { lanes, partitions: PARTITIONS.slice(0, partitionCount) };
          let progress = new Progress(scope, beginning(1));
          const done = new Map<string, number>();
          const failures = new Map<string, number>();
          const todo = script.values();
          for (let units = progress.next(limit); units.length > 0; units = progress.next(limit)) {
            for (const unit of units) {
              const step = todo.next().value ?? "done";
              if (step === "resume") {
                const place = parsePlace(formatPlace(progress.place), scope.partitions);
                if (place === undefined) throw new Error("the place does not parse");
                expect(place).toEqual(progress.place);
                progress = new Progress(scope, place);
                break;
              }
              if (step === "more") progress.advance(unit, "17");
              else if (step === "done") {
                progress.advance(unit, "0");
                done.set(nameOf(unit), (done.get(nameOf(unit)) ?? 0) + 1);
              } else {
                progress.fail(unit);
                failures.set(nameOf(unit), (failures.get(nameOf(unit)) ?? 0) + 1);
              }
            }
          }
          const left = new Set(progress.place.failed.map(nameOf));
          for (const lane of lanes) {
            for (const partition of scope.partitions) {
              const name = nameOf({ lane, partition, cursor: "0" });
              expect((done.get(name) ?? 0) + (left.has(name) ? 1 : 0)).toBe(1);
              if (left.has(name)) expect(failures.get(name)).toBe(2);
              if (failures.get(name) === 1) secondLooks += 1;
            }
          }
        },
      ),
      { numRuns: 300 },
    );
    expect(secondLooks).toBeGreaterThan(0);
  });

  it.each([
    ["no JSON", "{"],
    ["a lane that is none", '{"started_at":1,"last":["",1,"0"],"open":[],"failed":[],"second_look":false}'],
    [
      "a partition that is none",
      '{"started_at":1,"last":null,"open":[["a",12,"0"]],"failed":[],"second_look":false}',
    ],
    [
      "a cursor that is none",
      '{"started_at":1,"last":null,"open":[["a",1,"x"]],"failed":[],"second_look":false}',
    ],
    ["a missing field", '{"started_at":1,"last":null,"open":[],"second_look":false}'],
  ])("is none where it makes no sense: %s", (_, text) => {
    expect(parsePlace(text, PARTITIONS)).toBeUndefined();
  });
});

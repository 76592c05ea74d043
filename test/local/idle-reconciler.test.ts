import { describe, expect, test } from "vitest";
import type { FlowStatus } from "#local/flow-status.ts";
import { IdleReconciler } from "#local/idle-reconciler.ts";

const status = (blocked: number): FlowStatus => ({
  ended: { success: 0, failed: 1, cancelled: 0, expired: 0, skipped: 0 },
  ready: 0,
  delayed: 0,
  active: 0,
  blocked,
});

/** What a function answers, one after the other; an error is thrown. */
function answering(...answers: readonly unknown[]): { errors: string[]; resort: IdleReconciler } {
  const errors: string[] = [];
  const left = answers.values();
  const invoke = async (): Promise<unknown> => {
    const { value, done } = left.next();
    if (done) throw new Error("asked too often");
    if (value instanceof Error) throw value;
    return value;
  };
  return { errors, resort: new IdleReconciler({ invoke }, (fault) => errors.push(fault)) };
}

const sweepOf = (repaired: number, promoted: number, state = "complete") => ({ state, repaired, promoted });

describe("the last resort of a run in which nothing moves", () => {
  test("a sweep that finds nothing ends it", async () => {
    const { resort, errors } = answering(sweepOf(0, 0));
    expect(await resort.run(status(3))).toBe(false);
    expect(errors).toEqual([]);
  });

  test.each([
    ["repaired", [sweepOf(2, 0)]],
    ["promoted", [sweepOf(0, 1)]],
    ["found in an earlier slice", [sweepOf(1, 0, "out_of_time"), sweepOf(0, 0)]],
  ])("one that finds something does not: %s", async (_, answers) => {
    const { resort } = answering(...answers);
    expect(await resort.run(status(3))).toBe(true);
  });

  test.each([
    ["throws", new Error("it broke")],
    ["did not come to its end", sweepOf(0, 0, "incomplete")],
    ["was busy", sweepOf(0, 0, "busy")],
    ["makes no sense", null],
  ])("one that %s is no proof that there is nothing", async (_, answer) => {
    const { resort, errors } = answering(answer, sweepOf(0, 0));
    expect(await resort.run(status(3))).toBe(true);
    expect(errors).toHaveLength(1);
    expect(await resort.run(status(3))).toBe(false);
  });

  test("finding the same again and again without effect ends it, and an effect gives it new patience", async () => {
    const { resort } = answering(...Array.from({ length: 6 }, () => sweepOf(1, 0)));
    for (const blocked of [3, 3, 2, 2, 2]) expect(await resort.run(status(blocked))).toBe(true);
    expect(await resort.run(status(2))).toBe(false);
  });
});

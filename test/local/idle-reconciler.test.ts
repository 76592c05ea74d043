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

/** A reconciler whose function returns these responses in turn; an error is thrown. */
function answering(...answers: readonly unknown[]): { errors: string[]; reconciler: IdleReconciler } {
  const errors: string[] = [];
  const left = answers.values();
  const invoke = async (): Promise<unknown> => {
    const { value, done } = left.next();
    if (done) throw new Error("invoked too often");
    if (value instanceof Error) throw value;
    return value;
  };
  return { errors, reconciler: new IdleReconciler({ invoke }, (error) => errors.push(error)) };
}

const sweepOf = (repaired: number, promoted: number, state = "complete") => ({ state, repaired, promoted });

describe("the reconciler of an idle flow", () => {
  test("gives up after a sweep that finds nothing", async () => {
    const { reconciler, errors } = answering(sweepOf(0, 0));
    expect(await reconciler.run(status(3))).toBe(false);
    expect(errors).toEqual([]);
  });

  test.each([
    ["repairs", [sweepOf(2, 0)]],
    ["promotes", [sweepOf(0, 1)]],
    ["finds something in an earlier invocation", [sweepOf(1, 0, "out_of_time"), sweepOf(0, 0)]],
  ])("continues after a sweep that %s", async (_, answers) => {
    const { reconciler } = answering(...answers);
    expect(await reconciler.run(status(3))).toBe(true);
  });

  test.each([
    ["throws", new Error("it broke")],
    ["does not complete", sweepOf(0, 0, "incomplete")],
    ["was busy", sweepOf(0, 0, "busy")],
    ["makes no sense", null],
  ])("one that %s is no proof that there is nothing", async (_, answer) => {
    const { reconciler, errors } = answering(answer, sweepOf(0, 0));
    expect(await reconciler.run(status(3))).toBe(true);
    expect(errors).toHaveLength(1);
    expect(await reconciler.run(status(3))).toBe(false);
  });

  test("gives up after three sweeps without a change of the status, and starts over after a change", async () => {
    const { reconciler } = answering(...Array.from({ length: 6 }, () => sweepOf(1, 0)));
    for (const blocked of [3, 3, 2, 2, 2]) expect(await reconciler.run(status(blocked))).toBe(true);
    expect(await reconciler.run(status(2))).toBe(false);
  });
});

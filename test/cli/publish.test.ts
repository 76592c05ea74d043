import { describe, expect, it } from "vitest";
import { operatorAt, statesOf } from "#test/support/operator.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

describe.each(DEPLOYMENTS)("sluice publish on $name", (deployment) => {
  const operator = operatorAt(deployment);

  it("sends a lost completion again, and once more without effect", async () => {
    const flow = operator.flow();
    const [task, child] = [await flow.member(), await flow.member()];
    await flow.edge(task, child);
    await flow.finish(task, "success");
    expect(await statesOf(flow, [child])).toEqual(["waiting_children"]);
    const { changes } = await operator.run("publish", task.id, "--yes");
    expect(changes).toEqual([{ target: task.id, status: "changed", text: "its completion is sent" }]);
    expect(await operator.dispatch()).toBe(1);
    expect(await statesOf(flow, [child])).toEqual(["waiting"]);
    const before = await flow.snapshot();
    await operator.run("publish", task.id, "--yes");
    expect(await operator.dispatch()).toBe(1);
    expect(await flow.snapshot()).toEqual(before);
  });

  it("does nothing for an execution that has not ended, or is in no flow", async () => {
    const flow = operator.flow();
    const [open, solo] = [await flow.member(), await flow.execution()];
    await flow.finish(solo, "success");
    const results = [
      await operator.run("publish", open.id, "--yes"),
      await operator.run("publish", solo.id, "--yes"),
    ];
    expect(results).toMatchObject([
      { code: 0, changes: [{ status: "unchanged", code: "not_ended" }] },
      { code: 0, changes: [{ status: "unchanged", code: "no_flow" }] },
    ]);
    expect(await operator.completions()).toEqual([]);
  });
});

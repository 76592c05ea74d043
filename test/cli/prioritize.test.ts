import { describe, expect, it } from "vitest";
import { prioritize } from "#operate/write/prioritize.ts";
import { sluice } from "#test/cli/support.ts";
import { operatorAt, statesOf } from "#test/support/operator.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

describe.each(DEPLOYMENTS)("sluice prioritize on $name", (deployment) => {
  const operator = operatorAt(deployment);

  it("moves a waiting execution to the front of its lane", async () => {
    const flow = operator.flow();
    const [first, second] = [await flow.member(), await flow.member()];
    const { changes } = await operator.run("prioritize", second.id, "--priority", "9000", "--yes");
    expect(changes).toEqual([
      { target: second.id, status: "changed", text: "its priority was 0, and is 9000" },
    ]);
    const order = await flow.read("zrange", flow.index.lane(flow.lane).eligible, 0, -1);
    expect(order).toEqual([second.id, first.id]);
    expect(await operator.run("prioritize", second.id, "--priority", "9000", "--yes")).toMatchObject({
      code: 0,
      changes: [{ status: "unchanged", code: "same_priority" }],
    });
  });

  it("reports an execution that does not wait for a worker", async () => {
    const flow = operator.flow();
    const task = await flow.member();
    await flow.claim(task);
    expect(await operator.run("prioritize", task.id, "--priority", "5", "--yes")).toMatchObject({
      code: 1,
      changes: [{ status: "failed", code: "execution_not_eligible" }],
    });
  });

  it("leaves an execution that was claimed since the preview", async () => {
    const flow = operator.flow();
    const task = await flow.member();
    let isFirst = true;
    const context = operator.context({
      pipelined: async (commands) => {
        const results = await operator.valkey.pipelined(commands);
        if (isFirst) await flow.claim(task);
        isFirst = false;
        return results;
      },
    });
    const request = { execution: task.id, dry_run: false, reason: "", priority: 5 };
    expect((await prioritize.run(context, request)).changes).toMatchObject([
      { status: "unchanged", code: "execution_not_eligible" },
    ]);
    expect(await statesOf(flow, [task])).toEqual(["active"]);
    expect(await flow.read("hget", task.core, "priority")).toBe("0");
  });

  it.each(["9001", "-1", "high"])("refuses the priority %s", async (priority) => {
    const { code } = await sluice(
      ["prioritize", "--lane", "default", `--priority=${priority}`, "--yes"],
      operator,
    );
    expect(code).toBe(2);
  });
});

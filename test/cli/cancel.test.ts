import { describe, expect, it } from "vitest";
import { cancel } from "#operate/write/cancel.ts";
import { sluice } from "#test/cli/support.ts";
import { DEATHS, DyingValkey } from "#test/support/dying-valkey.ts";
import { operatorAt, statesOf } from "#test/support/operator.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

describe.each(DEPLOYMENTS)("sluice cancel on $name", (deployment) => {
  const operator = operatorAt(deployment);

  it("cancels one execution that runs, and its descendants are skipped", async () => {
    const flow = operator.flow();
    const [task, child] = [await flow.member(), await flow.member()];
    await flow.edge(task, child);
    const lease = await flow.claim(task);
    const { changes } = await operator.run("cancel", task.id, "--reason", "not needed", "--yes");
    expect(changes).toEqual([{ target: task.id, status: "changed", text: "is cancelled" }]);
    await expect(flow.complete(task, lease)).rejects.toThrow("execution_not_active");
    expect(await operator.dispatch()).toBeGreaterThan(0);
    expect(await statesOf(flow, [task, child])).toEqual(["cancelled", "skipped"]);
    expect(await flow.read("hget", task.core, "cancellation_reason")).toBe("not needed");
  });

  it("cancels a whole flow, after a preview of the members that have not ended", async () => {
    const flow = operator.flow();
    const members = [await flow.member(), await flow.member(), await flow.member()];
    const [ended, ...open] = members;
    if (ended !== undefined) await flow.finish(ended, "success");
    const { id } = flow.flow;
    const before = await flow.snapshot();
    const preview = await operator.run("cancel", "--flow", id, "--dry-run");
    expect(preview.changes.map(({ target }) => target)).toEqual([id, ...open.map((one) => one.id).sort()]);
    expect(await flow.snapshot()).toEqual(before);
    const done = await operator.run("cancel", "--flow", id, "--yes");
    expect(done.changes).toEqual([
      { target: id, status: "changed", text: "the flow is cancelled: 2 members are cancelled, 1 had ended" },
    ]);
    expect(await statesOf(flow, members)).toEqual(["completed", "cancelled", "cancelled"]);
    expect(await operator.auditEntries(id)).toBe(1);
    const again = await operator.run("cancel", "--flow", id, "--yes");
    expect(again).toMatchObject({
      code: 0,
      changes: [{ status: "unchanged", code: "flow_already_terminal" }],
    });
    expect(await operator.findings(flow)).toEqual([]);
  });

  it("only closes the flow with --policy flow_only", async () => {
    const flow = operator.flow();
    const member = await flow.member();
    const args = ["--flow", flow.flow.id, "--policy", "flow_only"];
    expect((await operator.run("cancel", ...args, "--dry-run")).changes.map(({ target }) => target)).toEqual([
      flow.flow.id,
    ]);
    await operator.run("cancel", ...args, "--yes");
    expect(await statesOf(flow, [member])).toEqual(["waiting"]);
    expect(await flow.read("hget", flow.flow.core, "public_flow_state")).toBe("cancelled");
  });

  it("refuses a policy for some members", async () => {
    const args = ["cancel", "--flow", operator.flow().flow.id, "--state", "waiting", "--policy", "flow_only"];
    const { code, stderr } = await sluice([...args, "--yes"], operator);
    expect({ code, stderr }).toEqual({ code: 2, stderr: "sluice: policy: needs a flow, and no filter\n" });
  });

  it("leaves what has ended as it is, and reports a flow that does not exist", async () => {
    const flow = operator.flow();
    const task = await flow.member();
    await flow.finish(task, "success");
    expect(await operator.run("cancel", task.id, "--yes")).toEqual({
      code: 0,
      changes: [{ target: task.id, status: "unchanged", code: "already_ended", text: "has ended: success" }],
    });
    expect(await operator.run("cancel", "--flow", operator.flow().flow.id, "--yes")).toMatchObject({
      code: 1,
      changes: [{ status: "failed", code: "flow_not_found" }],
    });
  });

  it("reports an execution that has ended since its record was read", async () => {
    const flow = operator.flow();
    const task = await flow.member();
    let reads = 0;
    const context = operator.context({
      pipelined: async (commands) => {
        const results = await operator.valkey.pipelined(commands);
        reads += 1;
        if (reads === 2) await flow.finish(task, "success");
        return results;
      },
    });
    const { changes } = await cancel.run(context, { execution: task.id, dry_run: false, reason: "" });
    expect(changes).toMatchObject([{ status: "unchanged", code: "already_ended" }]);
    expect(await statesOf(flow, [task])).toEqual(["completed"]);
  });

  it.each(DEATHS)("a repetition cancels the flow if the process dies %s", async (death) => {
    for (let at = 0; ; at += 1) {
      const flow = operator.flow();
      const members = [await flow.member(), await flow.member()];
      const request = { flow: flow.flow.id, dry_run: false, reason: "" };
      const dying = new DyingValkey(operator.valkey, at, death);
      await cancel.run(operator.context(dying), request).catch(() => undefined);
      const preview = await cancel.run(operator.context(), { ...request, dry_run: true });
      const done = await cancel.run(operator.context(), request);
      expect(done.changes.some(({ status }) => status === "failed")).toBe(false);
      expect(preview.changes[0]?.status === "would_change").toBe(done.changes[0]?.status === "changed");
      expect(await statesOf(flow, members)).toEqual(["cancelled", "cancelled"]);
      if (!dying.hasDied) break;
    }
  });
});

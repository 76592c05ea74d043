/** `sluice complete` and `sluice fail`. */

import { describe, expect, it } from "vitest";
import { complete, fail } from "#operate/write/end.ts";
import { OPERATOR } from "#sdk/worker/complete-execution.ts";
import { markLeaseExpiredIfDue } from "#shared/contract/upkeep.ts";
import { sluice } from "#test/cli/support.ts";
import { DEATHS, type Death, DyingValkey } from "#test/support/dying-valkey.ts";
import { WORKER } from "#test/support/flow-fixture.ts";
import { claimAndLose, operatorAt, statesOf } from "#test/support/operator.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

/** The case ends an execution for every step at which the process can die. */
const CRASH_TIMEOUT_MS = 120_000;

describe.each(DEPLOYMENTS)("ending executions on $name", (deployment) => {
  const operator = operatorAt(deployment);

  it("completes one execution, stores the result and sends the completion", async () => {
    const flow = operator.flow();
    const [task, child] = [await flow.member(), await flow.member()];
    await flow.edge(task, child);
    const { code, changes } = await operator.run("complete", task.id, "--result", '{"by":"ada"}', "--yes");
    expect({ code, changes }).toEqual({
      code: 0,
      changes: [{ target: task.id, status: "changed", text: "has ended with success" }],
    });
    expect(await flow.read("get", task.result)).toBe('{"by":"ada"}');
    expect(await operator.dispatch()).toBe(1);
    expect(await statesOf(flow, [task, child])).toEqual(["completed", "waiting"]);
    expect(await operator.auditEntries(task.id)).toBe(1);
  });

  it("fails one execution with the reason, and its descendants are skipped", async () => {
    const flow = operator.flow();
    const [task, child, grandchild] = [await flow.member(), await flow.member(), await flow.member()];
    await flow.edge(task, child);
    await flow.edge(child, grandchild);
    const { code } = await operator.run("fail", task.id, "--reason", "no supplier", "--yes");
    expect(code).toBe(0);
    await operator.dispatch();
    expect(await statesOf(flow, [task, child, grandchild])).toEqual(["failed", "skipped", "skipped"]);
    expect(await flow.read("hget", task.core, "failure_reason")).toBe("no supplier");
  });

  it("ends the waiting members of a flow that a filter narrows, and no others", async () => {
    const flow = operator.flow();
    const wanted = [await flow.member({ kind: "approve" }), await flow.member({ kind: "approve" })];
    const others = [await flow.member({ kind: "other" })];
    const { changes } = await operator.run("complete", "--flow", flow.flow.id, "--task", "approve", "--yes");
    expect(changes.map(({ target }) => target)).toEqual(wanted.map(({ id }) => id).sort());
    expect(await statesOf(flow, [...wanted, ...others])).toEqual(["completed", "completed", "waiting"]);
    expect((await operator.completions()).sort()).toEqual(wanted.map(({ id }) => id).sort());
    expect(await operator.auditEntries(flow.flow.id)).toBe(1);
  });

  it.each(["complete", "fail"])("%s changes nothing in a dry run", async (command) => {
    const flow = operator.flow();
    const task = await flow.member();
    const running = await flow.member();
    await flow.claim(running);
    const before = await flow.snapshot();
    for (const selection of [[task.id], [running.id, "--force"], ["--flow", flow.flow.id]]) {
      const { code, changes } = await operator.run(command, ...selection, "--dry-run");
      expect(code).toBe(0);
      expect(changes.map(({ status }) => status)).toEqual(["would_change"]);
    }
    expect(await flow.snapshot()).toEqual(before);
    expect(await operator.completions()).toEqual([]);
    expect(await operator.auditEntries(task.id)).toBe(0);
    expect(await operator.auditEntries(flow.flow.id)).toBe(0);
  });

  it("says why a blocked or delayed execution cannot be ended, and exits with 1", async () => {
    const flow = operator.flow();
    const [task, child] = [await flow.member(), await flow.member()];
    await flow.edge(task, child);
    const blocked = await operator.run("complete", child.id, "--yes");
    expect(blocked.code).toBe(1);
    expect(blocked.changes).toMatchObject([{ status: "failed", code: "blocked_by_dependencies" }]);
    expect(blocked.changes[0]?.text).toContain("end those first");
    const delayed = await flow.member({ delayUntil: Date.parse("2125-01-01T00:00:00Z") });
    const { changes } = await operator.run("fail", delayed.id, "--yes");
    expect(changes[0]?.text).toBe("is delayed until 2125-01-01T00:00:00Z: wait for it, or cancel it");
  });

  it("leaves an execution to its live worker, unless forced", async () => {
    const flow = operator.flow();
    const task = await flow.member();
    const lease = await flow.claim(task);
    const refused = await operator.run("complete", task.id, "--yes");
    expect(refused.code).toBe(1);
    expect(refused.changes).toMatchObject([{ status: "failed", code: "has_owner" }]);
    expect(refused.changes[0]?.text).toContain(`worker ${WORKER.instanceId} runs it`);
    expect((await operator.run("complete", task.id, "--force", "--yes")).code).toBe(0);
    expect(await statesOf(flow, [task])).toEqual(["completed"]);
    expect(await operator.completions()).toEqual([task.id]);
    await expect(flow.complete(task, lease)).rejects.toThrow("execution_not_active");
  });

  it("ends an execution whose worker is lost, marked or not", async () => {
    const flow = operator.flow();
    const [due, marked] = [await flow.member(), await flow.member()];
    for (const keys of [due, marked]) await claimAndLose(flow, keys);
    await flow.done(markLeaseExpiredIfDue(flow.target(marked)));
    for (const keys of [due, marked]) {
      const { code, changes } = await operator.run("fail", keys.id, "--yes");
      expect({ code, status: changes[0]?.status }).toEqual({ code: 0, status: "changed" });
    }
    expect(await statesOf(flow, [due, marked])).toEqual(["failed", "failed"]);
  });

  it("leaves an execution that has ended as it is", async () => {
    const flow = operator.flow();
    const task = await flow.member();
    await flow.finish(task, "failed");
    const { code, changes } = await operator.run("complete", task.id, "--yes");
    expect({ code, changes }).toEqual({
      code: 0,
      changes: [{ target: task.id, status: "unchanged", code: "already_ended", text: "has ended: failed" }],
    });
  });

  it("reports an execution or a flow that does not exist", async () => {
    const flow = operator.flow();
    const { id } = flow.newExecution();
    expect(await operator.run("complete", id, "--yes")).toMatchObject({
      code: 1,
      changes: [{ target: id, status: "failed", code: "execution_not_found" }],
    });
    expect(await operator.run("fail", "--flow", flow.flow.id, "--yes")).toMatchObject({
      code: 1,
      changes: [{ target: flow.flow.id, status: "failed", code: "flow_not_found" }],
    });
  });

  it("shows the preview, asks, and changes nothing after a no", async () => {
    const flow = operator.flow();
    const task = await flow.member();
    const { environment } = operator;
    const declined = await sluice(["complete", task.id], { environment, answer: "no" });
    expect(declined.stderr).toContain(`would change  ${task.id}  ends with success`);
    expect(await statesOf(flow, [task])).toEqual(["waiting"]);
    expect(await operator.auditEntries(task.id)).toBe(0);
    const agreed = await sluice(["complete", task.id], { environment, answer: "yes" });
    expect(agreed.code).toBe(0);
    expect(await statesOf(flow, [task])).toEqual(["completed"]);
  });

  it("needs --yes without a terminal", async () => {
    const { code, stderr } = await sluice(["fail", operator.flow().newExecution().id], operator);
    expect(code).toBe(2);
    expect(stderr).toContain("add --dry-run to see the changes, or --yes");
  });

  it("reports an execution that a worker has claimed since the preview", async () => {
    const flow = operator.flow();
    const task = await flow.member();
    const context = operator.context();
    const input = { execution: task.id, dry_run: false, reason: "", force: false };
    let isFirst = true;
    const claimedMeanwhile = {
      pipelined: async (commands: Parameters<typeof context.valkey.pipelined>[0]) => {
        const results = await context.valkey.pipelined(commands);
        if (isFirst) await flow.claim(task);
        isFirst = false;
        return results;
      },
    };
    const { changes } = await fail.run(operator.context(claimedMeanwhile), input);
    expect(changes).toMatchObject([{ target: task.id, status: "failed", code: "owner_changed" }]);
    expect(await statesOf(flow, [task])).toEqual(["active"]);
  });

  describe.each(DEATHS)("if the process dies %s", (death: Death) => {
    it(
      "a repetition ends the execution, whatever the crash left",
      async () => {
        for (let at = 0; ; at += 1) {
          const flow = operator.flow();
          const task = await flow.member();
          const input = { execution: task.id, dry_run: false, reason: "", force: false, result: "1" };
          const dying = new DyingValkey(operator.valkey, at, death);
          await complete.run(operator.context(dying), input).catch(() => undefined);
          const left = await flow.hash(task.core);
          // A grant expires by itself.
          await flow.read("del", task.claimGrant);
          const { changes } = await complete.run(operator.context(), input);
          expect(changes[0]?.status, `pipeline ${at}`).toBe(
            left.lifecycle_phase === "terminal" ? "unchanged" : "changed",
          );
          expect(await statesOf(flow, [task])).toEqual(["completed"]);
          if (left.lifecycle_phase === "active") expect(left.current_worker_id).toBe(OPERATOR);
          expect(await operator.findings(flow)).toEqual([]);
          if (!dying.hasDied) break;
        }
      },
      CRASH_TIMEOUT_MS,
    );
  });
});

/** `sluice replay`, with and without descendants. */

import { randomUUID } from "node:crypto";
import { describe, expect, it } from "vitest";
import { MAX_CHANGES } from "#operate/change-report.ts";
import { replay } from "#operate/write/replay.ts";
import { submitFlow } from "#sdk/submission/submit.ts";
import type { ValkeyCommand } from "#shared/contract/command.ts";
import { parseLaneId, unwrap } from "#shared/contract/ids.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { workflowOf } from "#test/submission/fixture.ts";
import { DEATHS, DyingValkey } from "#test/support/dying-valkey.ts";
import { FlowFixture, ROUTER } from "#test/support/flow-fixture.ts";
import { type Operator, operatorAt, statesOf } from "#test/support/operator.ts";
import { DEPLOYMENTS, DEPLOYMENTS_14 } from "#test/support/valkey.ts";

/** Each case runs a flow for every step at which the process can die. */
const CRASH_TIMEOUT_MS = 120_000;
const INPUT = { dry_run: false, reason: "", descendants: true };

/** A member whose failure has skipped `length` descendants in a chain. */
async function failedChain(
  operator: Operator,
  flow: FlowFixture,
  length = 2,
): Promise<{ readonly root: ExecKeys; readonly descendants: readonly ExecKeys[] }> {
  const root = await flow.member();
  const descendants: ExecKeys[] = [];
  for (let upstream = root; descendants.length < length; upstream = descendants.at(-1) ?? root) {
    const member = await flow.member();
    await flow.edge(upstream, member);
    descendants.push(member);
  }
  await flow.finish(root, "failed");
  await operator.publish(root, flow);
  await operator.dispatch();
  return { root, descendants };
}

/** Ends every member that can run, until none can. */
async function runToEnd(
  operator: Operator,
  flow: FlowFixture,
  members: readonly ExecKeys[],
): Promise<string[]> {
  for (;;) {
    await operator.dispatch();
    const states = await statesOf(flow, members);
    const waiting = members.filter((_, at) => states[at] === "waiting");
    if (waiting.length === 0) return states;
    for (const member of waiting) {
      await flow.finish(member, "success");
      await operator.publish(member, flow);
    }
  }
}

describe.each(DEPLOYMENTS)("sluice replay on $name", (deployment) => {
  const operator = operatorAt(deployment);

  it("replays a failure with its descendants, after a preview of exactly those", async () => {
    const flow = operator.flow();
    const { root, descendants } = await failedChain(operator, flow);
    const [child, grandchild] = descendants as [ExecKeys, ExecKeys];
    const other = await flow.member();
    const shared = await flow.member();
    await flow.edge(other, shared);
    await flow.finish(other, "failed");
    const before = await flow.snapshot();
    const preview = await operator.run("replay", root.id, "--descendants", "--dry-run");
    expect(preview.changes).toEqual([
      { target: child.id, status: "would_change", text: "waits for 1 dependency again, and then runs" },
      {
        target: grandchild.id,
        status: "would_change",
        text: "waits for 1 dependency again, and then runs",
      },
      { target: root.id, status: "would_change", text: "runs again (it had failed: it broke)" },
    ]);
    expect(await flow.snapshot()).toEqual(before);
    expect(await operator.auditEntries(root.id)).toBe(0);

    const { code, changes } = await operator.run("replay", root.id, "--descendants", "--yes");
    expect({ code, changes: changes.map(({ target, status }) => [target, status]) }).toEqual({
      code: 0,
      changes: [child, grandchild, root].map(({ id }) => [id, "changed"]),
    });
    expect(await operator.auditEntries(root.id)).toBe(1);
    const members = [root, ...descendants];
    expect(await statesOf(flow, members)).toEqual(["waiting", "waiting_children", "waiting_children"]);
    expect(await runToEnd(operator, flow, members)).toEqual(["completed", "completed", "completed"]);
  });

  it("leaves a descendant skipped that is also below another failure", async () => {
    const flow = operator.flow();
    const { root, descendants } = await failedChain(operator, flow, 1);
    const [other, shared, below] = [await flow.member(), await flow.member(), await flow.member()];
    await flow.edge(root, shared);
    await flow.edge(other, shared);
    await flow.edge(shared, below);
    await operator.run("fail", other.id, "--yes");
    await operator.publish(root, flow);
    await operator.dispatch();
    expect(await statesOf(flow, [shared, below])).toEqual(["skipped", "skipped"]);
    const { changes } = await operator.run("replay", root.id, "--descendants", "--yes");
    const verdicts = new Map(changes.map(({ target, ...verdict }) => [target, verdict]));
    expect(verdicts.get(shared.id)).toEqual({
      status: "unchanged",
      code: "upstream_not_replayed",
      text: `stays skipped: its upstream ${other.id} has failed, and is not replayed`,
    });
    expect(verdicts.get(below.id)?.code).toBe("upstream_not_replayed");
    const members = [root, ...descendants, shared, below];
    expect(await runToEnd(operator, flow, members)).toEqual(["completed", "completed", "skipped", "skipped"]);

    // Both failures of the flow together.
    await operator.run("replay", other.id, "--descendants", "--yes");
    expect(await runToEnd(operator, flow, [other, shared, below])).toEqual([
      "completed",
      "completed",
      "completed",
    ]);
  });

  it("replays all failures of a flow, and what was skipped below two of them", async () => {
    const flow = operator.flow();
    const [left, right, shared] = [await flow.member(), await flow.member(), await flow.member()];
    await flow.edge(left, shared);
    await flow.edge(right, shared);
    await operator.run("fail", "--flow", flow.flow.id, "--yes");
    await operator.dispatch();
    const { changes } = await operator.run("replay", "--flow", flow.flow.id, "--descendants", "--yes");
    expect(changes.map(({ status }) => status)).toEqual(["changed", "changed", "changed"]);
    const members = [left, right, shared];
    expect(await statesOf(flow, members)).toEqual(["waiting", "waiting", "waiting_children"]);
    expect(await runToEnd(operator, flow, members)).toEqual(["completed", "completed", "completed"]);
  });

  it("replays only the selected executions without --descendants", async () => {
    const flow = operator.flow();
    const { root, descendants } = await failedChain(operator, flow);
    const { changes } = await operator.run("replay", "--flow", flow.flow.id, "--yes");
    expect(changes.map(({ target }) => target)).toEqual([root.id]);
    expect(await statesOf(flow, [root, ...descendants])).toEqual(["waiting", "skipped", "skipped"]);
  });

  it("does not replay a skipped execution whose upstream stays failed", async () => {
    const flow = operator.flow();
    const { root, descendants } = await failedChain(operator, flow, 1);
    const [child] = descendants as [ExecKeys];
    const { code, changes } = await operator.run("replay", child.id, "--yes");
    expect({ code, changes }).toEqual({
      code: 0,
      changes: [
        {
          target: child.id,
          status: "unchanged",
          code: "upstream_not_replayed",
          text: `stays skipped: its upstream ${root.id} has failed, and is not replayed`,
        },
      ],
    });
    expect(await statesOf(flow, [child])).toEqual(["skipped"]);
  });

  it("selects by lane and by the text of the failure", async () => {
    const lane = unwrap(parseLaneId(`lane ${randomUUID()}`));
    const flow = new FlowFixture(operator.valkey, lane);
    const [full, slow] = [await flow.member(), await flow.member()];
    await operator.run("fail", full.id, "--reason", "disk full", "--yes");
    await operator.run("fail", slow.id, "--reason", "too slow", "--yes");
    const { changes } = await operator.run("replay", "--lane", lane, "--reason-contains", "full", "--yes");
    expect(changes.map(({ target, status }) => [target, status])).toEqual([[full.id, "changed"]]);
    expect(await operator.auditEntries(`lane=${lane} reason_contains=full`)).toBe(1);
  });

  it("reports an execution that was replayed too often, and leaves its descendants", async () => {
    const flow = operator.flow();
    const root = await flow.member({ policyJson: JSON.stringify({ max_replay_count: 0 }) });
    const child = await flow.member();
    await flow.edge(root, child);
    await operator.run("fail", root.id, "--yes");
    await operator.dispatch();
    const { code, changes } = await operator.run("replay", root.id, "--descendants", "--yes");
    expect(code).toBe(1);
    expect(changes).toMatchObject([
      { target: child.id, status: "unchanged", code: "upstream_not_replayed" },
      { target: root.id, status: "failed", code: "max_replays_exhausted" },
    ]);
    expect(await statesOf(flow, [root, child])).toEqual(["failed", "skipped"]);
  });

  it("changes nothing if the execution runs again since the preview", async () => {
    const flow = operator.flow();
    const { root, descendants } = await failedChain(operator, flow);
    await operator.run("replay", root.id, "--descendants", "--yes");
    await flow.claim(root);
    const { code, changes } = await operator.run("replay", root.id, "--descendants", "--yes");
    expect({ code, changes }).toEqual({
      code: 0,
      changes: [{ target: root.id, status: "unchanged", code: "not_ended", text: "has not ended: active" }],
    });
    expect(await statesOf(flow, descendants)).toEqual(["waiting_children", "waiting_children"]);
  });

  it("leaves an execution that another operator has replayed, and that has succeeded since", async () => {
    const flow = operator.flow();
    const { root } = await failedChain(operator, flow);
    let calls = 0;
    const overtaken = {
      pipelined: async (commands: readonly ValkeyCommand[]) => {
        const isReplay = commands.some(({ args }) => args[0] === "ff_replay_execution");
        if (isReplay && calls === 0) {
          calls += 1;
          await operator.run("replay", root.id, "--yes");
          await flow.finish(root, "success");
        }
        return operator.valkey.pipelined(commands);
      },
    };
    const { changes } = await replay.run(operator.context(overtaken), {
      ...INPUT,
      descendants: false,
      execution: root.id,
    });
    expect(calls).toBe(1);
    expect(changes).toMatchObject([{ status: "unchanged", code: "execution_not_terminal" }]);
    expect(await statesOf(flow, [root])).toEqual(["completed"]);
  });

  it("replays again what a late completion skips before the failure is replayed", async () => {
    const flow = operator.flow();
    const { root, descendants } = await failedChain(operator, flow);
    let calls = 0;
    const late = {
      pipelined: async (commands: readonly ValkeyCommand[]) => {
        // The completion of the failure, delivered once more when both descendants wait again.
        const isRoot = commands.some(
          ({ args }) => args[0] === "ff_replay_execution" && args.includes(root.core),
        );
        if (isRoot && calls === 0) {
          calls += 1;
          await operator.publish(root, flow);
          await operator.dispatch();
          expect(await statesOf(flow, descendants)).toEqual(["skipped", "skipped"]);
        }
        return operator.valkey.pipelined(commands);
      },
    };
    await replay.run(operator.context(late), { ...INPUT, execution: root.id });
    expect(calls).toBe(1);
    const members = [root, ...descendants];
    expect(await statesOf(flow, members)).toEqual(["waiting", "waiting_children", "waiting_children"]);
    expect(await runToEnd(operator, flow, members)).toEqual(["completed", "completed", "completed"]);
  });

  it("finishes what runs again before its descendants were replayed", async () => {
    const flow = operator.flow();
    const { root, descendants } = await failedChain(operator, flow);
    const members = [root, ...descendants];
    await operator.run("replay", root.id, "--yes");
    expect(await runToEnd(operator, flow, members)).toEqual(["completed", "skipped", "skipped"]);
    const { changes } = await operator.run("replay", "--flow", flow.flow.id, "--descendants", "--yes");
    expect(changes.map(({ status }) => status)).toEqual(["changed", "changed"]);
    expect(await runToEnd(operator, flow, members)).toEqual(["completed", "completed", "completed"]);
  });

  it("lets two operators replay at once", async () => {
    const flow = operator.flow();
    const { root, descendants } = await failedChain(operator, flow);
    const reports = await Promise.all(
      [1, 2].map(() => operator.run("replay", root.id, "--descendants", "--yes")),
    );
    expect(reports.map(({ code }) => code)).toEqual([0, 0]);
    expect(await runToEnd(operator, flow, [root, ...descendants])).toEqual([
      "completed",
      "completed",
      "completed",
    ]);
  });

  it(
    "replays more descendants than a page has, although a late completion skips the first page again",
    async () => {
      const flow = operator.flow();
      const tasks = ["root", ...Array.from({ length: MAX_CHANGES + 20 }, (_, at) => `child-${at}`)];
      const workflow = workflowOf(...tasks.slice(1).map((child) => `root>${child}`));
      const { completions } = operator.context();
      if (completions === undefined) throw new Error("there is no queue");
      const submission = await submitFlow(
        { valkey: operator.valkey, router: ROUTER, completions },
        workflow,
        {
          flowId: flow.flow.id,
        },
      );
      const members = tasks.map((task) =>
        ROUTER.execKeys(submission.executions.get(task) ?? flow.newExecution().id),
      );
      const [root, ...children] = members as [ExecKeys, ...ExecKeys[]];
      await flow.finish(root, "failed");
      await operator.publish(root, flow);
      await operator.dispatch();
      const preview = await operator.run("replay", root.id, "--descendants", "--dry-run");
      expect(new Set(preview.changes.map(({ target }) => target))).toEqual(
        new Set(members.map(({ id }) => id)),
      );
      const first = await replay.run(operator.context(), { ...INPUT, execution: root.id });
      expect(first.changes).toHaveLength(MAX_CHANGES);
      await operator.publish(root, flow);
      await operator.dispatch();
      expect(new Set(await statesOf(flow, children))).toEqual(new Set(["skipped"]));
      const cursor = first.next ?? "";
      const second = await replay.run(operator.context(), { ...INPUT, execution: root.id, cursor });
      expect(second.next).toBeUndefined();
      expect(second.changes.at(-1)).toMatchObject({ target: root.id, task: "root", status: "changed" });
      expect([...first.changes, ...second.changes].map(({ target }) => target)).toEqual(
        preview.changes.map(({ target }) => target),
      );
      expect(await statesOf(flow, members)).toEqual(["waiting", ...children.map(() => "waiting_children")]);
      expect(await operator.findings(flow)).toEqual([]);
    },
    CRASH_TIMEOUT_MS,
  );

  describe.each(DEATHS)("if the process dies %s", (death) => {
    it.each(["a repetition", "a late completion and a repetition"])(
      "%s replays the rest",
      async (what) => {
        for (let at = 0; ; at += 1) {
          const flow = operator.flow();
          const { root, descendants } = await failedChain(operator, flow);
          const dying = new DyingValkey(operator.valkey, at, death);
          await replay.run(operator.context(dying), { ...INPUT, execution: root.id }).catch(() => undefined);
          if (what !== "a repetition") await operator.publish(root, flow);
          await operator.dispatch();
          await replay.run(operator.context(), { ...INPUT, execution: root.id });
          const members = [root, ...descendants];
          expect(await statesOf(flow, members), `pipeline ${at}`).toEqual([
            "waiting",
            "waiting_children",
            "waiting_children",
          ]);
          expect(await operator.findings(flow)).toEqual([]);
          if (!dying.hasDied) break;
        }
      },
      CRASH_TIMEOUT_MS,
    );
  });
});

describe.each(DEPLOYMENTS_14)("sluice replay with groups on $name", (deployment) => {
  const operator = operatorAt(deployment);

  it("replays a quorum that enough of the replayed upstreams can satisfy", async () => {
    const flow = operator.flow();
    const upstreams = [await flow.member(), await flow.member(), await flow.member()];
    const [first, second] = upstreams as [ExecKeys, ExecKeys, ExecKeys];
    const child = await flow.member();
    await flow.group(child, { variant: "quorum", k: 2, onSatisfied: "let_run" });
    for (const upstream of upstreams) await flow.edge(upstream, child);
    for (const { id } of upstreams) await operator.run("fail", id, "--yes");
    await operator.dispatch();
    expect(await statesOf(flow, [child])).toEqual(["skipped"]);
    const alone = await operator.run("replay", first.id, "--descendants", "--dry-run");
    expect(alone.changes[0]).toMatchObject({ target: child.id, code: "upstream_not_replayed" });
    await operator.run("replay", first.id, "--yes");
    const both = await operator.run("replay", second.id, "--descendants", "--yes");
    expect(both.changes[0]).toMatchObject({ target: child.id, status: "changed" });
    expect(await runToEnd(operator, flow, [first, second, child])).toEqual([
      "completed",
      "completed",
      "completed",
    ]);
  });
});

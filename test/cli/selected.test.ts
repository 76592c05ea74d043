/** What all commands on selected executions have in common. */

import { describe, expect, it } from "vitest";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { sluice } from "#test/cli/support.ts";
import type { FlowFixture } from "#test/support/flow-fixture.ts";
import { claimAndLose, operatorAt } from "#test/support/operator.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

interface Case {
  readonly command: string;
  readonly options: readonly string[];
  /** Brings a member into a state that the command changes. */
  readonly prepare: (flow: FlowFixture, member: ExecKeys) => Promise<unknown>;
}

const waits = (): Promise<void> => Promise.resolve();
const failed: Case["prepare"] = (flow, member) => flow.finish(member, "failed");

const CASES: readonly Case[] = [
  { command: "complete", options: [], prepare: waits },
  { command: "fail", options: [], prepare: waits },
  { command: "cancel", options: [], prepare: waits },
  { command: "replay", options: [], prepare: failed },
  { command: "replay", options: ["--descendants"], prepare: failed },
  { command: "release", options: [], prepare: claimAndLose },
  { command: "publish", options: [], prepare: failed },
  { command: "prioritize", options: ["--priority", "7"], prepare: waits },
];

describe.each(DEPLOYMENTS)("commands on selected executions on $name", (deployment) => {
  const operator = operatorAt(deployment);

  describe.each(CASES)("$command $options", ({ command, options, prepare }) => {
    it("changes nothing in a dry run, records nothing and sends nothing", async () => {
      const flow = operator.flow();
      const member = await flow.member();
      await prepare(flow, member);
      const before = await flow.snapshot();
      for (const selection of [[member.id], ["--flow", flow.flow.id]]) {
        const { code, changes } = await operator.run(command, ...selection, ...options, "--dry-run");
        expect(code).toBe(0);
        expect(changes).toContainEqual(
          expect.objectContaining({ target: member.id, status: "would_change" }),
        );
      }
      expect(await flow.snapshot()).toEqual(before);
      expect(await operator.completions()).toEqual([]);
      expect(await operator.auditEntries(flow.flow.id)).toBe(0);
      expect(await operator.auditEntries(member.id)).toBe(0);
    });

    it("changes what the preview showed, with one entry in the audit trail", async () => {
      const flow = operator.flow();
      const members = [await flow.member(), await flow.member()];
      for (const member of members) await prepare(flow, member);
      const args = ["--flow", flow.flow.id, "--lane", flow.lane, ...options];
      const preview = await operator.run(command, ...args, "--dry-run");
      const done = await operator.run(command, ...args, "--yes", "--reason", "a test");
      expect(done.code).toBe(0);
      expect(done.changes.map(({ target, status }) => [target, status])).toEqual(
        preview.changes.map(({ target }) => [target, "changed"]),
      );
      expect(done.changes.map(({ target }) => target).sort()).toEqual(members.map(({ id }) => id).sort());
      expect(await operator.auditEntries(flow.flow.id)).toBe(1);
      expect(await operator.findings(flow)).toEqual([]);
    });

    it("refuses an empty filter", async () => {
      const { code, stderr } = await sluice([command, ...options, "--yes"], operator);
      expect(code).toBe(2);
      expect(stderr).toContain(
        "nothing limits the selection: name an execution, a flow (--flow), or a filter",
      );
    });

    it("changes nothing without a terminal and without --yes", async () => {
      const flow = operator.flow();
      const member = await flow.member();
      await prepare(flow, member);
      const before = await flow.snapshot();
      const { code, stderr } = await sluice([command, member.id, ...options], operator);
      expect(code).toBe(2);
      expect(stderr).toContain("add --dry-run to see the changes, or --yes to make them");
      expect(await flow.snapshot()).toEqual(before);
    });

    it("reports an execution that does not exist, and exits with 1", async () => {
      const { id } = operator.flow().newExecution();
      expect(await operator.run(command, id, ...options, "--yes")).toMatchObject({
        code: 1,
        changes: [{ target: id, status: "failed", code: "execution_not_found" }],
      });
    });
  });
});

import { describe, expect, it } from "vitest";
import { release } from "#operate/write/release.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import type { ReadyPublisher } from "#shared/ready/publisher.ts";
import { DEATHS, DyingValkey } from "#test/support/dying-valkey.ts";
import { type FlowFixture, WORKER } from "#test/support/flow-fixture.ts";
import { claimAndLose, operatorAt } from "#test/support/operator.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

describe.each(DEPLOYMENTS)("sluice release on $name", (deployment) => {
  const operator = operatorAt(deployment);

  async function running() {
    const flow = operator.flow();
    const task = await flow.member();
    return { flow, task, lease: await flow.claim(task) };
  }

  async function lost() {
    const flow = operator.flow();
    const task = await flow.member();
    await claimAndLose(flow, task);
    return { flow, task };
  }

  function ownershipOf(flow: FlowFixture, { core }: ExecKeys): Promise<unknown> {
    return flow.read("hget", core, "ownership_state");
  }

  it("releases the lease of a lost worker", async () => {
    const { flow, task } = await lost();
    const { code, changes } = await operator.run("release", task.id, "--yes");
    expect({ code, changes }).toEqual({
      code: 0,
      changes: [
        {
          target: task.id,
          status: "changed",
          text: "its lease is released: any worker can take it over",
        },
      ],
    });
    expect(await ownershipOf(flow, task)).toBe("lease_expired_reclaimable");
    expect(await operator.findings(flow)).toEqual([]);
    expect((await operator.run("release", task.id, "--yes")).changes).toMatchObject([
      { status: "unchanged", code: "lease_expired_reclaimable" },
    ]);
  });

  it("leaves a lease to a live worker, and takes it away with --force", async () => {
    const { flow, task, lease } = await running();
    const refused = await operator.run("release", task.id, "--yes");
    expect(refused).toMatchObject({ code: 1, changes: [{ status: "failed", code: "has_owner" }] });
    expect(refused.changes[0]?.text).toContain(`worker ${WORKER.instanceId} holds its lease until`);
    expect(await operator.run("release", "--flow", flow.flow.id, "--yes")).toMatchObject({
      code: 0,
      changes: [{ status: "unchanged", code: "has_owner" }],
    });
    expect(await ownershipOf(flow, task)).toBe("leased");
    expect((await operator.run("release", task.id, "--force", "--yes")).code).toBe(0);
    expect(await ownershipOf(flow, task)).toBe("lease_revoked");
    await expect(flow.complete(task, lease)).rejects.toThrow("lease_revoked");
  });

  it("leaves a lease that was renewed since the preview", async () => {
    const { flow, task } = await lost();
    let isFirst = true;
    const context = operator.context({
      pipelined: async (commands) => {
        const results = await operator.valkey.pipelined(commands);
        if (isFirst) await flow.read("hset", task.core, "lease_expires_at", String(Date.now() + 60_000));
        isFirst = false;
        return results;
      },
    });
    const request = { execution: task.id, dry_run: false, reason: "", force: false };
    expect((await release.run(context, request)).changes).toMatchObject([
      { status: "unchanged", code: "not_yet_expired" },
    ]);
    expect(await ownershipOf(flow, task)).toBe("leased");
  });

  it("announces a released execution in the ready queue of its lane", async () => {
    const { task } = await lost();
    const announced: string[] = [];
    const ready: ReadyPublisher = {
      announces: () => true,
      announce: (messages) => {
        announced.push(...messages.map(({ executionId }) => executionId));
        return Promise.resolve(messages.map(() => ({ ok: true as const })));
      },
    };
    const request = { execution: task.id, dry_run: false, reason: "", force: false };
    await release.run({ ...operator.context(), ready }, request);
    expect(announced).toEqual([task.id]);
  });

  it.each(DEATHS)("a repetition releases the lease if the process dies %s", async (death) => {
    for (let at = 0; ; at += 1) {
      const { flow, task } = await lost();
      const request = { execution: task.id, dry_run: false, reason: "", force: false };
      const dying = new DyingValkey(operator.valkey, at, death);
      await release.run(operator.context(dying), request).catch(() => undefined);
      const { changes } = await release.run(operator.context(), request);
      expect(changes.some(({ status }) => status === "failed")).toBe(false);
      expect(await ownershipOf(flow, task)).toBe("lease_expired_reclaimable");
      if (!dying.hasDied) break;
    }
  });
});

/** Groups of edges: `waitFor`. Only the 14-KEYS edition has them. */

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { planSubmission } from "#sdk/submission/plan.ts";
import type { WaitFor, Workflow } from "#sdk/submission/workflow.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { InterceptedPipelines, recordOf, task, workflowOf } from "#test/submission/fixture.ts";
import { idOf, submit } from "#test/submission/flow-checks.ts";
import { newFlowId, ROUTER } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS, DEPLOYMENTS_14, fieldsOf, run, snapshot } from "#test/support/valkey.ts";

function waiting(waitFor: WaitFor): Workflow {
  const workflow = workflowOf("a>d", "b>d", "c>d");
  return { ...workflow, tasks: workflow.tasks.map(({ id }) => task(id, id === "d" ? { waitFor } : {})) };
}

const QUORUM = waiting({ quorum: 2, onSatisfied: "cancelRemaining" });

describe.each(DEPLOYMENTS_14)("groups of edges ($name, 14 KEYS)", ({ connect }) => {
  let valkey: Valkey;
  beforeAll(() => {
    valkey = connect();
  });
  afterAll(() => valkey.close());

  const groupOf = async (workflow: Workflow, flowId: ReturnType<typeof newFlowId>) => {
    const { flow, tasks } = planSubmission(ROUTER, workflow, flowId, "default");
    const child = tasks.find((planned) => planned.task.id === "d") ?? expect.fail("no task d");
    return fieldsOf(await run(valkey, flow.partition, "hgetall", flow.edgeGroup(child.keys.id)));
  };

  test.each([
    [QUORUM, { policy_variant: "quorum", k: "2", on_satisfied: "cancel_remaining" }],
    [
      waiting({ anyOf: true, onSatisfied: "letRun" }),
      { policy_variant: "any_of", k: "1", on_satisfied: "let_run" },
    ],
  ])(
    "the policy is set before the edges are applied, and a repeated submission keeps it",
    async (workflow, policy) => {
      const submission = await submit(valkey, workflow);
      const expected = { ...policy, n: "3", succeeded: "0", group_state: "pending" };
      expect(await groupOf(workflow, submission.flowId)).toMatchObject(expected);
      expect(await recordOf(valkey, idOf(submission, "d"), "public_state")).toEqual({
        public_state: "waiting_children",
      });
      const before = await snapshot(valkey, submission.partition);
      await submit(valkey, workflow, submission.flowId);
      expect(await snapshot(valkey, submission.partition)).toEqual(before);
    },
  );

  test("a submission that dies around the child's transaction is completed by the next one", async () => {
    for (const isSent of [false, true]) {
      const flowId = newFlowId();
      const dying = new InterceptedPipelines(valkey, async (_, send, commands) => {
        if (!commands.some(({ name }) => name === "multi")) return send();
        if (isSent) await send();
        throw new Error("the process died");
      });
      await expect(submit(dying, QUORUM, flowId)).rejects.toThrow("died");
      await submit(valkey, QUORUM, flowId);
      expect(await groupOf(QUORUM, flowId)).toMatchObject({ policy_variant: "quorum", k: "2", n: "3" });
    }
  });

  test("a refusal of the policy fails the submission", async () => {
    const flowId = newFlowId();
    const { flow, tasks } = planSubmission(ROUTER, QUORUM, flowId, "default");
    const child = tasks.at(-1) ?? expect.fail("no task");
    await run(
      valkey,
      flow.partition,
      "hset",
      flow.edgeGroup(child.keys.id),
      "policy_variant",
      "all_of",
      "n",
      1,
    );
    await expect(submit(valkey, QUORUM, flowId)).rejects.toThrow(
      /ff_set_edge_group_policy refused: invalid_input, dependencies_applied/,
    );
  });
});

describe.each(DEPLOYMENTS)("groups of edges ($name, 11 KEYS)", ({ connect }) => {
  test("are refused with advice, and nothing is written", async () => {
    const valkey = connect();
    try {
      const flowId = newFlowId();
      const attempt = submit(valkey, QUORUM, flowId);
      await expect(attempt).rejects.toMatchObject({ retryable: false });
      await expect(attempt).rejects.toThrow(
        /task "d" has waitFor.*is the 11-KEYS edition; nothing was written: .*LIBRARY_EDITION=14/,
      );
      expect(await snapshot(valkey, ROUTER.flowPartition(flowId))).toEqual({});
    } finally {
      valkey.close();
    }
  });

  test("a library of an unknown version is refused, too", async () => {
    const valkey = connect();
    try {
      const unknown = new InterceptedPipelines(valkey, async (_, send, commands) => {
        const results = await send();
        return results.map((result, position) =>
          commands[position]?.args[0] === "ff_version" ? { ok: true, value: "20" } : result,
        );
      });
      await expect(submit(unknown, QUORUM)).rejects.toThrow(
        /is the unknown version "20"; nothing was written/,
      );
    } finally {
      valkey.close();
    }
  });
});

/**
 * `node cli/first-execution.ts`: a smoke test of a deployment. It submits a flow of two executions to the Valkey and the
 * queue in the environment, fails the first one as its worker, and waits until dispatch has skipped the second.
 *
 * Exit status: 0 on success, 1 if the second was not skipped in time or something failed, 2 if the environment is invalid.
 */

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { parseWorkflow } from "#sdk/submission/parse.ts";
import { submitFlow } from "#sdk/submission/submit.ts";
import { workBatch } from "#sdk/worker/worker.ts";
import { command } from "#shared/contract/command.ts";
import { parseFlowId, unwrap } from "#shared/contract/ids.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import { ConfigurationError, messageOf } from "#shared/errors.ts";
import { queueClient } from "#shared/queue/client.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { readConfiguration, readQueueUrl } from "#shared/runtime/environment.ts";
import { createPowertools } from "#shared/runtime/powertools.ts";
import { readEdition, readValkeyConfig } from "#shared/valkey/config.ts";
import { createSessions, detectEdition } from "#shared/valkey/start-up.ts";

/** A unique lane, so that the worker claims and fails only the execution of this program. */
const LANE = `first-execution-${randomUUID()}`;
const WORKFLOW = {
  name: "first-execution",
  tasks: [
    { id: "first", lane: LANE },
    { id: "second", lane: LANE, dependsOn: ["first"] },
  ],
};
const SKIP_TIMEOUT_MS = 60_000;
const POLL_INTERVAL_MS = 500;

async function main(): Promise<void> {
  const {
    queueUrl,
    edition: wantedEdition,
    ...config
  } = readConfiguration(process.env, (errors) => ({
    ...readValkeyConfig(process.env, errors),
    queueUrl: readQueueUrl(process.env, "COMPLETIONS_QUEUE_URL", errors),
    edition: readEdition(process.env, errors),
  }));

  const { telemetry } = createPowertools("first-execution");
  const sessions = createSessions(config, telemetry, (valkey) =>
    detectEdition(valkey, { edition: wantedEdition }, () => Promise.resolve(), telemetry),
  );
  const { valkey } = await sessions.get();
  try {
    const completions = new SqsCompletionPublisher(queueClient(), queueUrl);
    const router = new PartitionRouter(config.partitions);
    const flowId = unwrap(parseFlowId(randomUUID()));
    const workflow = parseWorkflow(JSON.stringify(WORKFLOW), "first-execution");
    if (!workflow.ok) throw new ConfigurationError(workflow.errors);
    const flow = await submitFlow({ valkey, router, completions }, workflow.value, { flowId });
    console.log(`submitted flow ${flowId}: ${[...flow.executions.values()].join(", then ")}`);

    const [task] = workflow.value.tasks;
    const identity = { workerId: "first-execution", instanceId: randomUUID() };
    if (task === undefined) throw new ConfigurationError(["the flow has no task"]);
    const worked = await workBatch(
      { valkey, router, completions, identity },
      { partition: flow.partition, lane: task.lane },
      () => Promise.reject(new Error("failed by the smoke test")),
      { limit: 1 },
    );
    console.log(`failed ${worked.map(({ id }) => id).join()} and sent its completion`);

    const second = flow.executions.get("second");
    if (second === undefined) throw new ConfigurationError(["the flow has no second execution"]);
    const { core } = router.execKeys(second);
    const deadline = Date.now() + SKIP_TIMEOUT_MS;
    for (;;) {
      const [state] = await valkey.pipelined([command(flow.partition, "hget", core, "public_state")]);
      if (state?.ok && String(state.value) === "skipped") break;
      if (Date.now() > deadline)
        throw new Error(
          `dispatch did not skip ${second} within a minute: check the log of the dispatch function`,
        );
      await sleep(POLL_INTERVAL_MS);
    }
    console.log(`dispatch skipped ${second}: the deployment works`);
  } finally {
    valkey.close();
  }
}

try {
  await main();
} catch (error) {
  process.stderr.write(`first-execution: ${messageOf(error)}\n`);
  process.exitCode = error instanceof ConfigurationError ? 2 : 1;
}

import { z } from "zod";
import { checkIndexes, checkPartitionCount, checkReconciler, type DataPorts } from "#operate/doctor/data.ts";
import { type CheckResult, skip } from "#operate/doctor/finding.ts";
import { type NodeReport, readNodes } from "#operate/doctor/nodes.ts";
import { type Deployment, DOCTOR_OUTPUT, doctorOutput } from "#operate/doctor/report.ts";
import { type Check, runChecks } from "#operate/doctor/run.ts";
import {
  checkClock,
  checkCluster,
  checkDurability,
  checkLibrary,
  checkMemory,
  checkVersion,
} from "#operate/doctor/valkey.ts";
import { type OperateContext, readOperation } from "#operate/operation.ts";
import { type LaneId, parseLaneId } from "#shared/contract/ids.ts";
import { type Environment, isSet } from "#shared/runtime/environment.ts";
import { readEdition } from "#shared/valkey/config.ts";
import { recordedEdition } from "#shared/valkey/library.ts";

/** How long an answer takes to get back to the caller. Milliseconds. */
const RESERVE_MS = 1_000;

/**
 * Checks Valkey and what is stored in it. The queues and functions are checked where the caller is, with the caller's
 * permissions: `checkDeployment`.
 */
export const doctor = readOperation({
  name: "doctor",
  runsUnchecked: true,
  input: z.strictObject({
    full: z.boolean().default(false).describe("Check all indexes, not a sample"),
  }),
  output: DOCTOR_OUTPUT,
  async run(context, { full }) {
    const deployment = deploymentOf(context);
    return doctorOutput(deployment, await runChecks(await valkeyChecks(context, deployment.is_local, full)));
  },
});

function deploymentOf({ environment, queues, router }: OperateContext): Deployment {
  return {
    is_local: isLocal(environment),
    flow_partitions: router.numFlowPartitions,
    ...(queues.completions === undefined ? {} : { completions_queue: queues.completions }),
    ...(queues.deadLetters === undefined ? {} : { dead_letter_queue: queues.deadLetters }),
    ready_queues: Object.fromEntries(queues.ready),
    ...(isSet(environment, "VALKEY_REPLICATION_GROUP")
      ? { replication_group: environment.VALKEY_REPLICATION_GROUP }
      : {}),
  };
}

const LOOPBACK = /^(?:localhost|127(?:\.\d+){3}|\[::1\])$/;

/** A local stack has no stage, or the stage `local`, and its Valkey on a loopback address. */
function isLocal({ SLUICE_STAGE: stage = "", VALKEY_URL: url = "" }: Environment): boolean {
  return (stage === "" || stage === "local") && LOOPBACK.test(URL.parse(url)?.hostname ?? "");
}

async function valkeyChecks(context: OperateContext, local: boolean, full: boolean): Promise<Check[]> {
  const { valkey, router, environment, queues } = context;
  const deadlineMs = context.deadlineMs - RESERVE_MS;
  const ports: DataPorts = {
    valkey,
    router,
    configuredLanes: [...new Set([...lanesOf(environment), ...queues.ready.keys()])],
    deadlineMs,
  };
  const { nodes, findings } = await readNodes(valkey, !isSet(environment, "AWS_LAMBDA_FUNCTION_NAME"));
  const isReachable = nodes.length > 0;
  const ofNodes = (
    name: string,
    title: string,
    run: (reports: readonly NodeReport[]) => CheckResult,
  ): Check => ({
    name,
    title,
    run: async () => (isReachable ? run(nodes) : skip(UNREACHABLE)),
  });
  const ofData = (name: string, title: string, run: () => Promise<CheckResult>): Check => ({
    name,
    title,
    run: async () => (isReachable ? run() : skip(UNREACHABLE)),
  });
  return [
    { name: "valkey", title: "Valkey answers", run: async () => ({ findings }) },
    ofNodes("version", "Valkey's version", checkVersion),
    ofNodes("cluster", "cluster mode and slots", (reports) =>
      checkCluster(reports, environment.VALKEY_CLUSTER_MODE === "true"),
    ),
    ofData("library", "the Lua library", async () =>
      checkLibrary(nodes, {
        configured: readEdition(environment, []),
        // Its node may be down, and the others can be checked.
        recorded: await recordedEdition(valkey).catch(() => undefined),
      }),
    ),
    ofData("partitions", "the partition count", () => checkPartitionCount(ports)),
    ofNodes("memory", "memory and eviction", (reports) => checkMemory(reports, local)),
    ofNodes("durability", "replicas and files", (reports) => checkDurability(reports, local)),
    ofNodes("clock", "clocks", checkClock),
    ofData("reconciler", "the reconciler", async () =>
      local ? skip("a local stack sweeps when it is idle, without a schedule") : checkReconciler(ports),
    ),
    {
      ...ofData("indexes", full ? "all indexes" : "a sample of the indexes", () => checkIndexes(ports, full)),
      limitMs: full ? Math.max(0, deadlineMs - Date.now()) : 30_000,
    },
  ];
}

const UNREACHABLE = "Valkey does not answer";

/** The lanes of `LANES`, the reconciler's variable. */
function lanesOf({ LANES: lanes = "default" }: Environment): LaneId[] {
  return lanes.split(",").flatMap((name) => {
    const lane = parseLaneId(name.trim());
    return lane.ok ? [lane.value] : [];
  });
}

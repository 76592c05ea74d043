/**
 * A replica takes over the slots of its primary: by command during a dispatch, because the primary dies during a dispatch,
 * or because it dies when a worker has just ended executions.
 *
 * A dying primary loses acknowledged writes that no replica has received. If dispatch wrote them, redelivery repeats them,
 * so the case waits for the replica before it kills the primary. If a worker wrote them, only `waitReplicas` helps: a case
 * with it must lose nothing, and a case without it must lose something, which it reports.
 */

import { ReconnectingValkey } from "#sdk/reconnecting-valkey.ts";
import { ReplicatedValkey } from "#sdk/replicated-valkey.ts";
import { command, type Pipelines } from "#shared/contract/command.ts";
import type { ExecKeys, FlowKeys } from "#shared/contract/keys.ts";
import {
  type CaseContext,
  type FaultKind,
  runToEnd,
  runToEndWithFault,
  UnsuitableCaseError,
} from "#test/faults/case.ts";
import { type Findings, join } from "#test/faults/findings.ts";
import { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { randomGraph, wideGraph } from "#test/faults/graph.ts";
import { ClusterServers, until } from "#test/faults/servers.ts";
import { agreeOn, isInSync, isPrimary, shardOf } from "#test/faults/shard.ts";
import { VALKEY_POINTS } from "#test/faults/steps.ts";
import { TestBed } from "#test/faults/test-bed.ts";

/** In the order of the case numbers. */
const VARIANTS: readonly ((context: CaseContext, servers: ClusterServers) => Promise<Findings>)[] = [
  (context, servers) => failOverDuringDispatch(context, servers, false),
  (context, servers) => failOverDuringDispatch(context, servers, true),
  (context, servers) => crashAfterOutcome(context, servers, 1),
  reportLossWithoutWait,
];

export const failover: FaultKind = {
  name: "failover",
  cases: { full: 20, quick: 4 },
  // Each case needs a new cluster: the roles of its nodes have changed.
  startTestBed: async () => TestBed.start(await ClusterServers.start(1)),
  isTestBedPerCase: true,
  run: (context) => {
    const { servers } = context.bed;
    if (!(servers instanceof ClusterServers)) throw new TypeError("this kind needs a cluster");
    const variant = VARIANTS[context.number % VARIANTS.length];
    if (variant === undefined) throw new RangeError(`no variant for the case ${context.number}`);
    return variant(context, servers);
  },
};

async function failOverDuringDispatch(
  context: CaseContext,
  servers: ClusterServers,
  isKilled: boolean,
): Promise<Findings> {
  const { bed, random } = context;
  bed.note(isKilled ? "the primary is killed" : "CLUSTER FAILOVER on the replica");
  const flow = await FlowUnderTest.build(bed, random, randomGraph(random));
  const shard = await shardOf(servers, flow.flowKeys.core);
  const { primary, replica } = shard;
  await runToEndWithFault(context, flow, {
    points: VALKEY_POINTS,
    times: 1,
    inject: async () => {
      await until("the replica to catch up", () => isInSync(servers, shard));
      if (isKilled) await servers.kill(primary);
      else await servers.ask(replica, "CLUSTER", "FAILOVER");
      await until("the replica to become primary", () => isPrimary(servers, replica));
      return isKilled ? "drop" : "pass";
    },
    afterwards: async () => {
      await until("the nodes to agree on the owner of the slots", () =>
        agreeOn(servers, replica, isKilled ? primary : undefined),
      );
      bed.reconnect();
    },
  });
  return flow.compareWithModel();
}

/**
 * Kills the primary after it has executed an outcome and before its replica has received it. The replica takes over, and the
 * killed node returns as its replica.
 */
async function crashAfterOutcome(
  context: CaseContext,
  servers: ClusterServers,
  waitReplicas: number,
): Promise<Findings> {
  const { bed, random } = context;
  bed.note(`the primary is killed after an outcome, waitReplicas is ${waitReplicas}`);
  using connections = new DisposableStack();
  const valkey = new ReconnectingValkey((knownNodes) => bed.connect(knownNodes));
  const replicated = new ReplicatedValkey((knownNodes) => bed.connect(knownNodes), { waitReplicas });
  for (const connection of [valkey, replicated]) connections.defer(() => connection.close());
  let runsBefore = random.below(2);
  let crash: Promise<void> | undefined;
  const flow: FlowUnderTest = await FlowUnderTest.build(bed, random, wideGraph(random), {
    worker: {
      valkey,
      replicated,
      beforeOutcomes: async (claimed) => {
        if (crash !== undefined || runsBefore-- > 0) return;
        const { promise: prepared, resolve } = Promise.withResolvers<void>();
        crash = crashAfter(servers, claimed, resolve);
        await Promise.race([prepared, crash]);
      },
      afterRound: async () => {
        if (crash === undefined) return;
        await crash;
        bed.reconnect();
        // The first call of a connection that does not know the new primary fails.
        for (const connection of [valkey, replicated]) {
          await until("the worker to reach the new primary", () => reaches(connection, flow.flowKeys));
        }
      },
    },
  });
  await runToEnd(context, flow);
  if (crash === undefined) throw new UnsuitableCaseError("too few executions ran");
  return flow.compareWithModel();
}

async function reaches(connection: Pipelines, { partition, core }: FlowKeys): Promise<boolean> {
  const [result] = await connection.pipelined([command(partition, "exists", core)]);
  return result?.ok === true;
}

async function crashAfter(servers: ClusterServers, claimed: ExecKeys, onPrepared: () => void): Promise<void> {
  const shard = await shardOf(servers, claimed.core);
  const { primary, replica } = shard;
  const restart = await servers.prepareRestart(primary);
  await until("the replica to catch up", () => isInSync(servers, shard));
  // What the primary writes from now on stays in its memory.
  servers.signal(replica, "SIGSTOP");
  await servers.ask(primary, "CLIENT", "KILL", "TYPE", "replica");
  onPrepared();
  await until(
    "the outcome to be written",
    async () => (await servers.ask(primary, "HGET", claimed.core, "lifecycle_phase")) !== "active",
  );
  servers.signal(primary, "SIGKILL");
  servers.signal(replica, "SIGCONT");
  await until("the replica to become primary", () => isPrimary(servers, replica));
  await until("the nodes to agree on the owner of the slots", () => agreeOn(servers, replica, primary));
  await restart();
  await until("the killed node to become a replica", () =>
    isInSync(servers, { primary: replica, replica: primary }),
  );
}

async function reportLossWithoutWait(context: CaseContext, servers: ClusterServers): Promise<Findings> {
  const { lost, wronglySkipped, duplicated } = await crashAfterOutcome(context, servers, 0);
  const active = lost.filter((what) => what.includes(": is active,")).length;
  if (active === 0)
    throw new Error("the crash lost no outcome: the case does not show what waitReplicas is for");
  context.report(
    `without waitReplicas, ${active} executions stay active until their leases end (${lost.length} findings)`,
  );
  return { ...join([]), wronglySkipped, duplicated };
}

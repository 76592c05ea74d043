import { fileURLToPath } from "node:url";
import type { SQSBatchResponse } from "aws-lambda";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { FunctionProcess } from "#local/function-process.ts";
import { startValkeyCluster } from "#local/valkey-server.ts";
import { type ExecKeys, LANES_KEY, PARTITION_CONFIG_KEY } from "#shared/contract/keys.ts";
import { DEFAULT_PARTITION_CONFIG, PartitionRouter, slotOf } from "#shared/contract/partitions.ts";
import { LEASE_KEY } from "#shared/reconcile/lease.ts";
import { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { recordOf } from "#test/auth/built.ts";
import { family, QueueProbe, stateOf } from "#test/support/dispatch.ts";
import { FlowFixture, LANE } from "#test/support/flow-fixture.ts";
import { backdateEnd, MINUTE_MS } from "#test/support/reconcile.ts";

const PRIMARIES = 3;
const CLUSTER_ARGS = ["--cluster-require-full-coverage", "no", "--cluster-node-timeout", "1000"];
/** The node with the partition record, and with the reconciler's lease and lanes. */
const CONFIG_NODE = 1;
const PARTITIONS = 256;
const ROUTER = new PartitionRouter({ ...DEFAULT_PARTITION_CONFIG, numFlowPartitions: PARTITIONS });
const SCHEDULED = { source: "aws.scheduler", detail: {} };

/** One execution per node that has ended without a completion, with one blocked child. */
interface Missed {
  readonly node: number;
  readonly fixture: FlowFixture;
  readonly parent: ExecKeys;
  readonly child: ExecKeys;
}

function nodeOfSlot(slot: number): number {
  return Math.floor(((slot + 1) * PRIMARIES - 1) / 16_384);
}

async function missedOn(valkey: Valkey, node: number): Promise<Missed> {
  let fixture = new FlowFixture(valkey, LANE, ROUTER);
  while (nodeOfSlot(slotOf(fixture.flow.partition)) !== node) fixture = new FlowFixture(valkey, LANE, ROUTER);
  const { parent, children } = await family(fixture, 1);
  const [child] = children;
  if (child === undefined) throw new Error("no child");
  await fixture.finish(parent, "success");
  await backdateEnd(fixture, parent, MINUTE_MS);
  return { node, fixture, parent, child };
}

describe.each([
  { name: "that of VALKEY_URL is dead", dead: 0, signal: "SIGKILL", edition: "auto" },
  { name: "that of the partition record is dead", dead: CONFIG_NODE, signal: "SIGKILL", edition: "11" },
  { name: "another is dead", dead: 2, signal: "SIGKILL", edition: "auto" },
  { name: "that of the partition record is silent", dead: CONFIG_NODE, signal: "SIGSTOP", edition: "11" },
] as const)("a cluster of three primaries, $name (LIBRARY_EDITION=$edition)", ({ dead, signal, edition }) => {
  const resources = new AsyncDisposableStack();
  let probe: QueueProbe;
  let nodes: readonly URL[];
  let pid: number;
  let missed: Missed[];
  let warm: FunctionProcess;
  let warmReconciler: FunctionProcess;

  function start(name: "dispatch" | "reconcile", url: string): FunctionProcess {
    return resources.use(
      new FunctionProcess({
        functionName: name,
        bundle: fileURLToPath(new URL(`../../dist/${name}/index.mjs`, import.meta.url)),
        environment: {
          ...probe.queue.environment,
          VALKEY_URL: url,
          VALKEY_CLUSTER_MODE: "true",
          LIBRARY_EDITION: edition,
          COMPLETIONS_QUEUE_URL: probe.queue.queueUrl,
          FLOW_PARTITIONS: String(PARTITIONS),
        },
        timeoutMs: 30_000,
        onOutput: () => undefined,
      }),
    );
  }

  beforeAll(async () => {
    probe = resources.use(await QueueProbe.start());
    const cluster = resources.use(
      await startValkeyCluster({ primaries: PRIMARIES, extraArgs: CLUSTER_ARGS }),
    );
    nodes = cluster.nodes.map(({ url }) => url);
    pid = cluster.nodes[dead]?.pid ?? 0;
    const valkey = resources.adopt(
      new Valkey({ url: cluster.url, cluster: true }, { onConnectionError: () => undefined }),
      (client) => client.close(),
    );
    for (const key of [PARTITION_CONFIG_KEY, LANES_KEY, LEASE_KEY]) {
      expect(nodeOfSlot(Number(await valkey.call("cluster", "KEYSLOT", key)))).toBe(CONFIG_NODE);
    }
    await ensureLibrary(valkey);
    await valkey.call("hset", PARTITION_CONFIG_KEY, "num_flow_partitions", String(PARTITIONS));
    warm = start("dispatch", cluster.url.href);
    warmReconciler = start("reconcile", cluster.url.href);
    expect(await warm.invoke({ Records: [] })).toEqual({ batchItemFailures: [] });
    expect(await warmReconciler.invoke(SCHEDULED)).toMatchObject({ state: "complete", unread: 0 });
    missed = await Promise.all([0, 1, 2].map((node) => missedOn(valkey, node)));
    process.kill(pid, signal);
    // A stopped process ends only after it continues.
    if (signal === "SIGSTOP") resources.defer(() => void process.kill(pid, "SIGCONT"));
  });
  afterAll(() => resources.disposeAsync());

  const healthy = (): Missed[] => missed.filter(({ node }) => node !== dead);
  const everyNode = (): string => `redis://${nodes.map(({ host }) => host).join(",")}`;

  /** Delivers the completion of every flow. Returns the nodes of the failed messages. */
  async function deliver(fn: FunctionProcess): Promise<number[]> {
    const records = missed.map(({ fixture, parent }) =>
      recordOf({ execution_id: parent.id, flow_id: fixture.flow.id, outcome: "success" }),
    );
    const { batchItemFailures } = (await fn.invoke({ Records: records })) as SQSBatchResponse;
    const failed = new Set(batchItemFailures.map(({ itemIdentifier }) => itemIdentifier));
    return missed.flatMap(({ node }, index) => (failed.has(records[index]?.messageId ?? "") ? node : []));
  }

  it("the reconciler sweeps the others and reports the indexes that it could not read", async () => {
    // The first run may find out that the node is dead.
    await warmReconciler.invoke(SCHEDULED).catch(() => undefined);
    for (const reconciler of [warmReconciler, start("reconcile", everyNode())]) {
      const report = Object(await reconciler.invoke(SCHEDULED));
      expect(report).toMatchObject({ state: "incomplete", scanned: healthy().length });
      expect(report.unread).toBeGreaterThan(0);
    }
    const sent = (await probe.drainEvents()).map(({ executionId }) => executionId);
    expect(new Set(sent)).toEqual(new Set(healthy().map(({ parent }) => parent.id)));
  });

  it("the second delivery for the others succeeds, and a new function finds a living node", async () => {
    await deliver(warm).catch(() => undefined);
    expect(await deliver(warm)).toEqual([dead]);
    for (const { fixture, child } of healthy()) expect(await stateOf(fixture, child)).toBe("waiting");
    expect(await deliver(start("dispatch", everyNode()))).toEqual([dead]);
  });
});

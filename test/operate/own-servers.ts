/** Servers of one test file, with few partitions: operations that read every index of every lane are quick on them. */

import { afterAll, beforeAll } from "vitest";
import { type LocalQueue, startQueue } from "#local/queue.ts";
import { startValkey, startValkeyCluster, type ValkeyServer } from "#local/valkey-server.ts";
import type { LaneId } from "#shared/contract/ids.ts";
import { DEFAULT_PARTITION_CONFIG, PartitionRouter } from "#shared/contract/partitions.ts";
import type { Environment } from "#shared/runtime/environment.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { FlowFixture, LANE } from "#test/support/flow-fixture.ts";
import { connectTo, type Deployment } from "#test/support/valkey.ts";

const PARTITIONS = 16;
export const OWN_ROUTER = new PartitionRouter({
  ...DEFAULT_PARTITION_CONFIG,
  numFlowPartitions: PARTITIONS,
});

export const OWN_KINDS = ["standalone", "cluster"] as const;

export interface OwnServers {
  readonly deployment: Deployment;
  readonly valkey: Valkey;
  readonly queue: LocalQueue;
  /** The variables of a deployment: Valkey, partitions and queues. The AWS SDK finds the queue server too. */
  readonly environment: Environment;
  fixture(lane?: LaneId): FlowFixture;
}

/** Call within a `describe`: starts the servers for its tests. */
export function useOwnServers(kind: (typeof OWN_KINDS)[number]): () => OwnServers {
  let servers: OwnServers | undefined;
  let server: ValkeyServer | undefined;
  beforeAll(async () => {
    server = kind === "cluster" ? await startValkeyCluster() : await startValkey();
    const address = { url: server.url, cluster: kind === "cluster" };
    const connect = (): Valkey => connectTo(address);
    const valkey = connect();
    await ensureLibrary(valkey, 11);
    const queue = await startQueue({ visibilityTimeoutSeconds: 60 });
    // The clients of operations take region, credentials and endpoint from the process.
    Object.assign(process.env, queue.environment);
    servers = {
      deployment: { name: kind, edition: 11, address, connect },
      valkey,
      queue,
      environment: {
        VALKEY_URL: address.url.href,
        VALKEY_CLUSTER_MODE: String(address.cluster),
        FLOW_PARTITIONS: String(PARTITIONS),
        COMPLETIONS_QUEUE_URL: queue.queueUrl,
        DEAD_LETTER_QUEUE_URL: queue.deadLetterQueueUrl,
      },
      fixture: (lane = LANE) => new FlowFixture(valkey, lane, OWN_ROUTER),
    };
  });
  afterAll(async () => {
    servers?.valkey.close();
    await servers?.queue.stop();
    await server?.stop();
  });
  return () => {
    if (servers === undefined) throw new Error("the servers have not started yet");
    return servers;
  };
}

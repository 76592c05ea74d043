import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestProject } from "vitest/node";
import { startValkey, startValkeyCluster } from "#local/valkey-server.ts";
import type { Edition } from "#shared/contract/edition.ts";
import type { ValkeyAddress } from "#shared/valkey/address.ts";
import { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";

declare module "vitest" {
  interface ProvidedContext {
    standaloneUrl: string;
    clusterUrl: string;
    standalone14Url: string;
    cluster14Url: string;
    /** The folder of the partition allocator. */
    partitionClaims: string;
  }
}

/**
 * Starts the servers that all test files share: for each edition of the library one standalone server and one cluster,
 * with the library loaded. A test that stops servers, flushes functions or reads server statistics starts its own.
 */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  await using servers = new AsyncDisposableStack();
  const partitionClaims = await mkdtemp(join(tmpdir(), "sluice-partitions-"));
  servers.defer(() => rm(partitionClaims, { recursive: true, force: true }));
  project.provide("partitionClaims", partitionClaims);
  const [standalone, cluster] = await Promise.all([startStandalone(servers, 11), startCluster(servers, 11)]);
  const [standalone14, cluster14] = await Promise.all([
    startStandalone(servers, 14),
    startCluster(servers, 14),
  ]);
  project.provide("standaloneUrl", standalone);
  project.provide("clusterUrl", cluster);
  project.provide("standalone14Url", standalone14);
  project.provide("cluster14Url", cluster14);
  const running = servers.move();
  return () => running.disposeAsync();
}

async function startStandalone(servers: AsyncDisposableStack, edition: Edition): Promise<string> {
  const { url } = servers.use(await startValkey());
  await load({ url, cluster: false }, edition);
  return url.href;
}

async function startCluster(servers: AsyncDisposableStack, edition: Edition): Promise<string> {
  const { url } = servers.use(await startValkeyCluster());
  await load({ url, cluster: true }, edition);
  return url.href;
}

async function load(address: ValkeyAddress, edition: Edition): Promise<void> {
  const valkey = new Valkey(address, {
    onConnectionError: (error) => {
      throw error;
    },
  });
  try {
    await ensureLibrary(valkey, edition);
  } finally {
    valkey.close();
  }
}

import type { TestProject } from "vitest/node";
import { startValkey, startValkeyCluster } from "#local/valkey-server.ts";
import { Valkey, type ValkeyAddress } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";

declare module "vitest" {
  interface ProvidedContext {
    standaloneUrl: string;
    clusterUrl: string;
  }
}

/**
 * One standalone server and one cluster for the whole run, our library loaded on both. A test that stops
 * servers, flushes functions or counts what the server did starts its own.
 */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const standalone = await startValkey();
  const cluster = await startValkeyCluster();
  await load({ url: standalone.url, cluster: false });
  await load({ url: cluster.url, cluster: true });
  project.provide("standaloneUrl", standalone.url.href);
  project.provide("clusterUrl", cluster.url.href);
  return async () => {
    await Promise.all([standalone.stop(), cluster.stop()]);
  };
}

async function load(address: ValkeyAddress): Promise<void> {
  const valkey = new Valkey(address, {
    onConnectionError: (error) => {
      throw error;
    },
  });
  try {
    await ensureLibrary(valkey);
  } finally {
    valkey.close();
  }
}

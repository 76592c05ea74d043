/** A Valkey whose connections a test can kill. */

import { vi } from "vitest";
import { startValkey, startValkeyCluster, type ValkeyServer } from "#local/valkey-server.ts";
import { Valkey } from "#shared/valkey/client.ts";
import { TcpProxy } from "#test/support/tcp-proxy.ts";

/** The nodes of the deployment, each behind a proxy. A cluster's nodes announce the ports of their proxies. */
export interface ProxiedValkey extends AsyncDisposable {
  readonly address: { readonly url: URL; readonly cluster: boolean };
  readonly proxies: readonly TcpProxy[];
}

export async function startProxiedValkey(kind: "standalone" | "cluster"): Promise<ProxiedValkey> {
  const resources = new AsyncDisposableStack();
  const nodes: readonly ValkeyServer[] =
    kind === "cluster"
      ? resources.use(await startValkeyCluster(2)).nodes
      : [resources.use(await startValkey())];
  const proxies = await Promise.all(nodes.map(async ({ url }) => resources.use(await TcpProxy.before(url))));
  const [{ url } = { url: new URL("redis://unset") }] = proxies;
  if (kind === "cluster") {
    const direct = nodes.map(
      ({ url: own }) => new Valkey({ url: own, cluster: false }, { onConnectionError: () => undefined }),
    );
    await Promise.all(
      direct.map((node, index) =>
        node.call("config", "SET", "cluster-announce-port", proxies[index]?.url.port ?? ""),
      ),
    );
    const ports = proxies.map((proxy) => `,${proxy.url.port},`);
    await vi.waitUntil(
      async () => {
        const views = await Promise.all(direct.map((node) => node.call("cluster", "SLOTS")));
        return views.every((view) => ports.every((port) => JSON.stringify(view).includes(port)));
      },
      { timeout: 10_000, interval: 50 },
    );
    for (const node of direct) node.close();
  }
  return {
    address: { url, cluster: kind === "cluster" },
    proxies,
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  };
}

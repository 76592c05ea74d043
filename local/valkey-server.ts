/**
 * Starts Valkey servers for the local stack and the tests: on free loopback ports, in temporary folders, without
 * persistence. They end with the process that started them.
 */

import { accessSync, constants, readFileSync, statSync } from "node:fs";
import { delimiter, isAbsolute, join } from "node:path";
import { fileURLToPath } from "node:url";
import { attachReplicas, formCluster } from "#local/valkey-cluster.ts";
import { freePorts, HOST, launch } from "#local/valkey-process.ts";
import { ConfigurationError } from "#shared/errors.ts";

const START_ATTEMPTS = 5;
const PORT_TAKEN = /Address already in use|Could not create server|Failed listening on port/i;
const RECORDED_BY_SETUP = fileURLToPath(new URL("../.sluice/valkey-server", import.meta.url));

export interface ValkeyServer extends AsyncDisposable {
  readonly port: number;
  readonly url: URL;
  /** The TLS endpoint. Undefined without the option `tls`. */
  readonly tlsUrl: URL | undefined;
  readonly pid: number;
  /** Resolves when the process has ended, for whatever reason. */
  readonly exited: Promise<void>;
  /** Ends the server and removes its folder. A second call has no effect. */
  stop(): Promise<void>;
}

/** The servers of a cluster. The inherited properties are those of the first primary. */
export interface ValkeyCluster extends ValkeyServer {
  /** The primaries, then the replicas: one per primary, in the order of the primaries, and so on. */
  readonly nodes: readonly ValkeyServer[];
}

/** Paths of PEM files. The certificate is for `localhost`. */
export interface TlsFiles {
  readonly certificate: string;
  readonly key: string;
}

export interface ClusterShape {
  readonly primaries: number;
  /** Replicas per primary; the default is 0. */
  readonly replicas?: number;
  /** Appended to every node's arguments. */
  readonly extraArgs?: readonly string[];
  readonly tls?: TlsFiles;
}

export interface ValkeyOptions {
  /** Appended to the server's arguments, e.g. `["--requirepass", "secret"]`. */
  readonly extraArgs?: readonly string[];
  /** Listens on a second port with TLS, without client certificates. */
  readonly tls?: TlsFiles;
}

/**
 * Finds the server's executable: the variable `VALKEY_SERVER`, else the path recorded by `npm run setup` or `sluice install-valkey`, else
 * `valkey-server` on the PATH. Throws a ConfigurationError if there is none, or if the variable names a file that is not
 * executable.
 */
export function findValkeyServer(environment: NodeJS.ProcessEnv = process.env): string {
  const { VALKEY_SERVER: named = "", PATH: path = "" } = environment;
  if (named !== "") {
    if (isExecutable(named)) return named;
    throw new ConfigurationError([`VALKEY_SERVER names ${named}, which is not an executable file`]);
  }
  const recorded = recordedPath();
  if (isAbsolute(recorded) && isExecutable(recorded)) return recorded;
  for (const folder of path.split(delimiter)) {
    const candidate = join(folder, "valkey-server");
    if (folder !== "" && isExecutable(candidate)) return candidate;
  }
  throw new ConfigurationError([
    "valkey-server not found: run `npx sluice install-valkey` (in a checkout of Sluice: `npm run setup`), install " +
      "Valkey 7.2 or later so that valkey-server is on the PATH, or set VALKEY_SERVER to its path",
  ]);
}

/** Starts one server and waits until it accepts connections. Rejects with the end of its log. */
export async function startValkey(options: ValkeyOptions = {}): Promise<ValkeyServer> {
  const { extraArgs = [], tls } = options;
  const executable = findValkeyServer();
  for (let attempt = 1; ; attempt += 1) {
    const [port = 0, busPort, tlsPort] = await freePorts(3);
    // By default the bus port of a cluster node is its port plus 10,000, which may be taken.
    const cluster = extraArgs.includes("--cluster-enabled") ? ["--cluster-port", String(busPort)] : [];
    const secured = tls === undefined ? [] : tlsArguments(tls, tlsPort);
    const started = await launch(executable, port, [...extraArgs, ...cluster, ...secured]);
    if (started.ok) {
      const { pid, exited, stop } = started.server;
      const url = new URL(`redis://${HOST}:${port}`);
      const tlsUrl = tls === undefined ? undefined : new URL(`rediss://localhost:${tlsPort}`);
      return { port, url, tlsUrl, pid, exited, stop, [Symbol.asyncDispose]: stop };
    }
    if (attempt === START_ATTEMPTS || !PORT_TAKEN.test(started.log)) {
      throw new Error(`${executable} did not start:\n${started.log}`);
    }
  }
}

/**
 * Starts a cluster with evenly distributed slots and waits until every node serves. `shape` is the number of primaries
 * without replicas, or a ClusterShape. Rejects if the cluster does not form in time, and then stops all its servers.
 */
export async function startValkeyCluster(shape: number | ClusterShape = 3): Promise<ValkeyCluster> {
  const {
    primaries,
    replicas = 0,
    extraArgs = [],
    ...rest
  }: ClusterShape = typeof shape === "number" ? { primaries: shape } : shape;
  const starts = await Promise.allSettled(
    Array.from({ length: primaries * (1 + replicas) }, () =>
      startValkey({ ...rest, extraArgs: ["--cluster-enabled", "yes", ...extraArgs] }),
    ),
  );
  const nodes = starts.flatMap((start) => (start.status === "fulfilled" ? [start.value] : []));
  const stop = async (): Promise<void> => {
    await Promise.all(nodes.map((node) => node.stop()));
  };
  try {
    for (const start of starts) if (start.status === "rejected") throw start.reason;
    const [first] = nodes;
    if (first === undefined) throw new RangeError("a cluster has at least one primary");
    const ports = nodes.map(({ port }) => port);
    await formCluster(ports.slice(0, primaries));
    if (replicas > 0) await attachReplicas(ports.slice(0, primaries), ports.slice(primaries));
    return { ...first, nodes, stop, [Symbol.asyncDispose]: stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

function tlsArguments({ certificate, key }: TlsFiles, port: number | undefined): string[] {
  const files = ["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", certificate];
  return ["--tls-port", String(port), ...files, "--tls-auth-clients", "no"];
}

function recordedPath(): string {
  const recorded = statSync(RECORDED_BY_SETUP, { throwIfNoEntry: false });
  return recorded?.isFile() ? readFileSync(RECORDED_BY_SETUP, "utf8").trim() : "";
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch (_unreadable) {
    return false;
  }
}

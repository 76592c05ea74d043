/** What the primaries of Valkey say about themselves: everything that the checks of Valkey need, read once. */

import { type DoctorFinding, found } from "#operate/doctor/finding.ts";
import { messageOf, UnreachableError } from "#shared/errors.ts";
import type { Valkey, ValkeyNode } from "#shared/valkey/client.ts";
import { fetchLibrary, type LoadedLibrary } from "#shared/valkey/library.ts";
import { serverTimeMs } from "#shared/valkey/server-time.ts";

/** A primary that answers. */
export interface NodeReport {
  /** `host:port`. */
  readonly name: string;
  /** The fields of INFO. Empty if the caller may not read it. */
  readonly info: ReadonlyMap<string, string>;
  readonly clock: Clock | undefined;
  readonly library: LoadedLibrary | "unread";
  /** The reply of `ff_version`; undefined if it cannot be called. */
  readonly version: string | undefined;
  /** Slots of the cluster that have a primary; undefined for a standalone server. */
  readonly servedSlots: number | undefined;
  /** The replies of CONFIG GET. Empty if the caller may not read them, as on ElastiCache. */
  readonly config: ReadonlyMap<string, string>;
}

/** The server's clock minus this machine's, in milliseconds: at least, given how long the answer took. */
export interface Clock {
  readonly aheadMs: number;
}

export interface NodeReports {
  readonly nodes: readonly NodeReport[];
  /** Nodes that do not answer, and permissions that are missing. */
  readonly findings: readonly DoctorFinding[];
}

/** What cannot be read of one node must not delay the answers of the others. */
const TIMEOUT_MS = 3_000;
const REFUSED = /\b(?:NOAUTH|WRONGPASS)\b/;
const NO_CLUSTER = /cluster support disabled/;
const NOT_PERMITTED = /^NOPERM\b/;
const CONFIG_NAMES = ["cluster-require-full-coverage"] as const;

/**
 * Asks every primary. Never rejects. `asksForConfig`: whether CONFIG GET is tried, which managed services refuse, as well as the
 * user of a function.
 */
export async function readNodes(valkey: Valkey, asksForConfig: boolean): Promise<NodeReports> {
  let primaries: ValkeyNode[];
  try {
    primaries = await valkey.primaries();
  } catch (error) {
    return { nodes: [], findings: [unreachable("Valkey", error, "valkey_unreachable")] };
  }
  const code = primaries.length > 1 ? "valkey_node_unreachable" : "valkey_unreachable";
  const read = await Promise.all(primaries.map((node) => readNode(node, code, asksForConfig)));
  const nodes = read.flatMap(({ node }) => (node === undefined ? [] : [node]));
  return { nodes, findings: read.flatMap(({ findings }) => findings) };
}

function unreachable(
  where: string,
  error: unknown,
  code: "valkey_unreachable" | "valkey_node_unreachable",
): DoctorFinding {
  const reason = messageOf(error);
  if (NO_CLUSTER.test(reason)) {
    return found("cluster_mode_wrong", where, reason, "set VALKEY_CLUSTER_MODE=false, or omit --cluster");
  }
  return REFUSED.test(reason) ? found("valkey_refused", where, reason) : found(code, where, reason);
}

async function readNode(
  node: ValkeyNode,
  code: "valkey_unreachable" | "valkey_node_unreachable",
  asksForConfig: boolean,
): Promise<{ readonly node: NodeReport | undefined; readonly findings: readonly DoctorFinding[] }> {
  const findings: DoctorFinding[] = [];
  /** Returns undefined for a permission that is missing, and for an error reply. Throws if the node does not answer. */
  const ask = async <T>(name: string, send: () => Promise<T>): Promise<T | undefined> => {
    try {
      return await send();
    } catch (error) {
      const reason = messageOf(error);
      if (error instanceof UnreachableError || REFUSED.test(reason)) throw error;
      if (NOT_PERMITTED.test(reason)) findings.push(notPermitted(node.name, name, reason));
      return undefined;
    }
  };
  const call = (name: string, ...args: (string | number)[]) => node.callWithin(TIMEOUT_MS, name, ...args);
  try {
    const clock = await ask("TIME", () => readClock(call));
    const info = await ask("INFO", async () => infoOf(await call("info")));
    const library = await readLibrary(call, ask);
    const version = await ask("FCALL ff_version", async () => String(await call("fcall", "ff_version", 0)));
    const servedSlots =
      info?.get("cluster_enabled") === "1"
        ? await ask("CLUSTER SLOTS", async () => servedIn(await call("cluster", "SLOTS")))
        : undefined;
    const config = asksForConfig ? await readConfig(call) : new Map<string, string>();
    return {
      node: { name: node.name, clock, info: info ?? new Map(), library, version, servedSlots, config },
      findings,
    };
  } catch (error) {
    return { node: undefined, findings: [...findings, unreachable(node.name, error, code)] };
  }
}

function notPermitted(node: string, command: string, reason: string): DoctorFinding {
  return found("permission_missing", node, reason, `allow the Valkey user ${command}: docs/valkey-access.md`);
}

type Call = (name: string, ...args: (string | number)[]) => Promise<unknown>;

async function readClock(call: Call): Promise<Clock> {
  const sentAt = Date.now();
  const serverMs = serverTimeMs(await call("time"));
  const receivedAt = Date.now();
  // The server read its clock at some time in between.
  if (serverMs > receivedAt) return { aheadMs: serverMs - receivedAt };
  return { aheadMs: Math.min(0, serverMs - sentAt) };
}

async function readLibrary(
  call: Call,
  ask: <T>(name: string, send: () => Promise<T>) => Promise<T | undefined>,
): Promise<NodeReport["library"]> {
  let library: NodeReport["library"] = "unread";
  await ask("FUNCTION LIST", async () => {
    library = await fetchLibrary({ call });
  });
  return library;
}

function servedIn(reply: unknown): number {
  const ranges: readonly unknown[] = Array.isArray(reply) ? reply : [];
  return ranges.reduce<number>((sum, range) => {
    const [first, last]: readonly unknown[] = Array.isArray(range) ? range : [];
    return sum + Number(last) - Number(first) + 1;
  }, 0);
}

/** Managed services refuse CONFIG, so a refusal is no finding. */
async function readConfig(call: Call): Promise<Map<string, string>> {
  try {
    const reply = await call("config", "GET", ...CONFIG_NAMES);
    const words = Array.isArray(reply) ? reply.map(String) : [];
    return new Map(words.flatMap((word, at) => (at % 2 === 0 ? [[word, words[at + 1] ?? ""] as const] : [])));
  } catch (error) {
    if (error instanceof UnreachableError) throw error;
    return new Map();
  }
}

/** The fields of INFO: lines of `name:value`. */
function infoOf(reply: unknown): Map<string, string> {
  return new Map(
    String(reply)
      .split("\r\n")
      .flatMap((line) => {
        const at = line.indexOf(":");
        return at > 0 ? [[line.slice(0, at), line.slice(at + 1)] as const] : [];
      }),
  );
}

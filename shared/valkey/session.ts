import type { NodeAddress } from "#shared/valkey/address.ts";
import type { Valkey } from "#shared/valkey/client.ts";

/** A client, and the result of its startup checks. */
export interface Session<StartupInfo> {
  readonly valkey: Valkey;
  readonly startupInfo: StartupInfo;
}

interface CurrentClient<StartupInfo> {
  readonly valkey: Valkey;
  readonly startupInfo: Promise<StartupInfo>;
  /** Milliseconds since the epoch. */
  readonly createdAt: number;
}

/**
 * The age at which a client is replaced. ElastiCache closes a connection 12 hours after IAM authentication; a new client
 * opens new connections before that.
 */
const MAX_CLIENT_AGE_MS = 11.5 * 3_600_000;
/** How long a replaced client stays open for invocations that still use it: Lambda's maximum duration. */
const CLOSE_DELAY_MS = 15 * 60_000;

/**
 * Provides each invocation with a working client. Invocations share one client until it fails: then the next invocation
 * gets a new one. A thawed execution environment may hold dead connections, so those that were idle are checked first.
 *
 * `connect` creates a client. It receives the cluster nodes that the previous client had discovered.
 * `start` runs once per client. If it fails, the invocation fails, and the next one starts with a new client. A client
 * older than `maxAgeMs` is replaced, and closed 15 minutes later.
 */
export class SessionProvider<StartupInfo> {
  readonly #connect: (knownNodes: readonly NodeAddress[]) => Valkey;
  readonly #start: (valkey: Valkey) => Promise<StartupInfo>;
  readonly #maxAgeMs: number;
  #current: CurrentClient<StartupInfo> | undefined;
  #knownNodes: readonly NodeAddress[] = [];

  constructor(
    connect: (knownNodes: readonly NodeAddress[]) => Valkey,
    start: (valkey: Valkey) => Promise<StartupInfo>,
    maxAgeMs = MAX_CLIENT_AGE_MS,
  ) {
    this.#connect = connect;
    this.#start = start;
    this.#maxAgeMs = maxAgeMs;
  }

  /** Returns the current session, or a new one if its client is broken. Rejects with the error of `start`. */
  async get(): Promise<Session<StartupInfo>> {
    if (this.#current?.valkey.isBroken === false) await this.#current.valkey.checkIdleConnections();
    const current = this.#getOrConnect();
    try {
      return { valkey: current.valkey, startupInfo: await current.startupInfo };
    } catch (error) {
      // Unless another invocation has already replaced the client.
      if (this.#current === current) this.#discard(current);
      throw error;
    }
  }

  /** Returns a session with another client than `failed`. Rejects with the error of `start`. */
  replace(failed: Session<StartupInfo>): Promise<Session<StartupInfo>> {
    // Unless another invocation has already replaced the client.
    if (this.#current?.valkey === failed.valkey) this.#discard(this.#current);
    return this.get();
  }

  #getOrConnect(): CurrentClient<StartupInfo> {
    if (this.#current?.valkey.isBroken === true) this.#discard(this.#current);
    if (this.#current !== undefined && Date.now() - this.#current.createdAt >= this.#maxAgeMs) {
      const { valkey } = this.#detach(this.#current);
      setTimeout(() => valkey.close(), CLOSE_DELAY_MS).unref();
    }
    if (this.#current === undefined) {
      const valkey = this.#connect(this.#knownNodes);
      this.#current = { valkey, startupInfo: this.#start(valkey), createdAt: Date.now() };
    }
    return this.#current;
  }

  #discard(current: CurrentClient<StartupInfo>): void {
    this.#detach(current).valkey.close();
  }

  #detach(current: CurrentClient<StartupInfo>): CurrentClient<StartupInfo> {
    // A client that never connected has discovered no nodes: keep the previous ones.
    const nodes = current.valkey.knownNodes;
    if (nodes.length > 0) this.#knownNodes = nodes;
    this.#current = undefined;
    return current;
  }
}

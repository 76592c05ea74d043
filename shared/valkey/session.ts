import type { Valkey } from "#shared/valkey/client.ts";

/** A client, and what was found out about its server before it was first used. */
export interface Session<StartupInfo> {
  readonly valkey: Valkey;
  readonly startupInfo: StartupInfo;
}

interface Present<StartupInfo> {
  readonly valkey: Valkey;
  readonly startupInfo: Promise<StartupInfo>;
  /** Milliseconds since the epoch. */
  readonly since: number;
}

/**
 * For how long a client serves. ElastiCache drops a connection 12 hours after it checked its IAM token; a new client
 * has new connections.
 */
const CLIENT_LIFE_MS = 11.5 * 3_600_000;
/** For how long a replaced client stays open for an invocation that still uses it: Lambda's longest time. */
const AFTERLIFE_MS = 15 * 60_000;

/**
 * Gives each invocation a sound client: the one of the invocation before, or a new one where that broke. A frozen
 * and thawed execution environment may hold a dead connection, and learns of it only by a command that fails.
 *
 * `connect` makes a client, and gets the cluster nodes that the last one knew, as `host:port`. `start` is run once
 * for each client; where it fails, so does the invocation, and the next one begins anew. A client that has served for
 * `lifeMs` is replaced, and closed a while later.
 */
export class SessionProvider<StartupInfo> {
  readonly #connect: (knownNodes: readonly string[]) => Valkey;
  readonly #start: (valkey: Valkey) => Promise<StartupInfo>;
  readonly #lifeMs: number;
  #present: Present<StartupInfo> | undefined;
  #knownNodes: readonly string[] = [];

  constructor(
    connect: (knownNodes: readonly string[]) => Valkey,
    start: (valkey: Valkey) => Promise<StartupInfo>,
    lifeMs = CLIENT_LIFE_MS,
  ) {
    this.#connect = connect;
    this.#start = start;
    this.#lifeMs = lifeMs;
  }

  async get(): Promise<Session<StartupInfo>> {
    const present = this.#sound();
    try {
      return { valkey: present.valkey, startupInfo: await present.startupInfo };
    } catch (error) {
      // Unless another invocation has begun anew already.
      if (this.#present === present) this.#discard(present);
      throw error;
    }
  }

  #sound(): Present<StartupInfo> {
    if (this.#present?.valkey.isBroken === true) this.#discard(this.#present);
    if (this.#present !== undefined && Date.now() - this.#present.since >= this.#lifeMs) {
      const { valkey } = this.#release(this.#present);
      setTimeout(() => valkey.close(), AFTERLIFE_MS).unref();
    }
    if (this.#present === undefined) {
      const valkey = this.#connect(this.#knownNodes);
      this.#present = { valkey, startupInfo: this.#start(valkey), since: Date.now() };
    }
    return this.#present;
  }

  #discard(present: Present<StartupInfo>): void {
    this.#release(present).valkey.close();
  }

  #release(present: Present<StartupInfo>): Present<StartupInfo> {
    // A client that never got through knows nothing, and what was known before still serves.
    const nodes = present.valkey.knownNodes;
    if (nodes.length > 0) this.#knownNodes = nodes;
    this.#present = undefined;
    return present;
  }
}

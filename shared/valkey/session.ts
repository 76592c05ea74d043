import type { Valkey } from "#shared/valkey/client.ts";

/** A client, and what was found out about its server before it was first used. */
export interface Session<Facts> {
  readonly valkey: Valkey;
  readonly facts: Facts;
}

interface Present<Facts> {
  readonly valkey: Valkey;
  readonly facts: Promise<Facts>;
}

/**
 * Gives each invocation a sound client: the one of the invocation before, or a new one where that broke. A frozen
 * and thawed execution environment may hold a dead connection, and learns of it only by a command that fails.
 *
 * `connect` makes a client, and gets the cluster nodes that the last one knew, as `host:port`. `start` is run once
 * for each client; where it fails, so does the invocation, and the next one begins anew.
 */
export class SessionKeeper<Facts> {
  readonly #connect: (knownNodes: readonly string[]) => Valkey;
  readonly #start: (valkey: Valkey) => Promise<Facts>;
  #present: Present<Facts> | undefined;
  #knownNodes: readonly string[] = [];

  constructor(connect: (knownNodes: readonly string[]) => Valkey, start: (valkey: Valkey) => Promise<Facts>) {
    this.#connect = connect;
    this.#start = start;
  }

  async get(): Promise<Session<Facts>> {
    const present = this.#sound();
    try {
      return { valkey: present.valkey, facts: await present.facts };
    } catch (error) {
      // Unless another invocation has begun anew already.
      if (this.#present === present) this.#discard(present);
      throw error;
    }
  }

  #sound(): Present<Facts> {
    if (this.#present?.valkey.isBroken === true) this.#discard(this.#present);
    if (this.#present === undefined) {
      const valkey = this.#connect(this.#knownNodes);
      this.#present = { valkey, facts: this.#start(valkey) };
    }
    return this.#present;
  }

  #discard({ valkey }: Present<Facts>): void {
    // A client that never got through knows nothing, and what was known before still serves.
    const nodes = valkey.knownNodes;
    if (nodes.length > 0) this.#knownNodes = nodes;
    valkey.close();
    this.#present = undefined;
  }
}

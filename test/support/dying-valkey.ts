import type { Pipelines, ValkeyArgument, ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";
import { UnreachableError } from "#shared/errors.ts";
import type { Valkey } from "#shared/valkey/client.ts";

/** How a process or a connection ends at a pipeline. */
export const DEATHS = ["before it is sent", "after it was executed"] as const;
export type Death = (typeof DEATHS)[number];

/**
 * A client whose process dies at its pipeline number `at` (from 0): that pipeline and everything after it fails. With a
 * high number it never dies.
 */
export class DyingValkey implements Pipelines {
  hasDied = false;
  readonly #valkey: Pick<Valkey, "pipelined" | "call">;
  readonly #death: Death;
  #left: number;

  constructor(valkey: Pick<Valkey, "pipelined" | "call">, at: number, death: Death) {
    this.#valkey = valkey;
    this.#left = at;
    this.#death = death;
  }

  async pipelined(commands: readonly ValkeyCommand[]): Promise<ValkeyResult[]> {
    this.#check();
    if (commands.length === 0) return [];
    if (this.#left > 0) {
      this.#left -= 1;
      return this.#valkey.pipelined(commands);
    }
    this.hasDied = true;
    if (this.#death === "after it was executed") await this.#valkey.pipelined(commands);
    throw new Error("the process died");
  }

  async call(name: string, ...args: ValkeyArgument[]): Promise<unknown> {
    this.#check();
    return this.#valkey.call(name, ...args);
  }

  #check(): void {
    if (this.hasDied) throw new Error("the process is dead");
  }
}

/** Executes all pipelines, but loses the replies of number `at` (from 0). */
export function losingReplies(
  valkey: Pick<Valkey, "pipelined" | "call">,
  at: number,
): Pick<Valkey, "pipelined" | "call"> & { readonly hasLost: () => boolean } {
  let number = -1;
  return {
    call: valkey.call.bind(valkey),
    pipelined: async (commands) => {
      const results = await valkey.pipelined(commands);
      if (commands.length > 0) number += 1;
      if (number !== at || commands.length === 0) return results;
      return results.map(() => ({ ok: false, error: new UnreachableError("the reply is lost") }) as const);
    },
    hasLost: () => number >= at,
  };
}

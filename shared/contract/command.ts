import type { Partition } from "#shared/contract/ids.ts";

export type ValkeyArgument = string | number | Buffer;

/** One command to a partition: all its keys carry that partition's hash tag. */
export interface ValkeyCommand {
  readonly partition: Partition;
  /** Lower case, e.g. `hmget`. */
  readonly name: string;
  readonly args: readonly ValkeyArgument[];
}

/** What became of one command of a pipeline. A refusal of a Valkey function is not an error here. */
export type ValkeyResult =
  | { readonly ok: true; readonly value: unknown }
  | { readonly ok: false; readonly error: Error };

/** The one thing that domain code needs of Valkey. */
export interface Pipelines {
  /**
   * Sends all commands at once, one pipeline a partition, and waits for all replies: one round trip,
   * however many commands. Results are in the commands' order; commands of one partition run in their
   * order. A failure is a result, never a rejection.
   */
  pipelined(commands: readonly ValkeyCommand[]): Promise<ValkeyResult[]>;
}

export function command(
  partition: Partition,
  name: string,
  ...args: readonly ValkeyArgument[]
): ValkeyCommand {
  return { partition, name, args };
}

/** A call of a Valkey function. */
export function fcall(
  partition: Partition,
  functionName: string,
  keys: readonly string[],
  args: readonly ValkeyArgument[],
): ValkeyCommand {
  return { partition, name: "fcall", args: [functionName, keys.length, ...keys, ...args] };
}

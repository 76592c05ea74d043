import type { Partition } from "#shared/contract/ids.ts";

/** An argument of a command. Numbers are sent as decimal text. */
export type ValkeyArgument = string | number | Buffer;

/** One command for a partition: all its keys carry that partition's hash tag. */
export interface ValkeyCommand {
  readonly partition: Partition;
  /** Lower case, e.g. `hmget`. */
  readonly name: string;
  readonly args: readonly ValkeyArgument[];
}

/** The result of one command of a pipeline. A refusal by a Valkey function is a value, not an error. */
export type ValkeyResult =
  | { readonly ok: true; readonly value: unknown }
  | { readonly ok: false; readonly error: Error };

/** Sends commands to Valkey. Domain code depends on this interface only. */
export interface Pipelines {
  /**
   * Sends all commands at once, as one pipeline per partition, and waits for all replies: one round trip for any
   * number of commands. Returns one result per command, in the commands' order. Commands of one partition run in
   * order. A failure is a result: the promise never rejects.
   */
  pipelined(commands: readonly ValkeyCommand[]): Promise<ValkeyResult[]>;
}

/**
 * Builds a command. All keys in `args` must be keys of `partition`.
 *
 * @example
 * command(keys.partition, "hget", keys.core, "public_state");
 */
export function command(
  partition: Partition,
  name: string,
  ...args: readonly ValkeyArgument[]
): ValkeyCommand {
  return { partition, name, args };
}

/** Builds a call of a Valkey function. */
export function fcall(
  partition: Partition,
  functionName: string,
  keys: readonly string[],
  args: readonly ValkeyArgument[],
): ValkeyCommand {
  return { partition, name: "fcall", args: [functionName, keys.length, ...keys, ...args] };
}

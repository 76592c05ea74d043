/**
 * An operation is one thing that an operator can do, independent of where it runs. The command line, the functions
 * `operate-read` and `operate-write`, and the page of `sluice dev` run the same operations.
 */

import type { z } from "zod";
import type { Edition } from "#shared/contract/edition.ts";
import type { LaneId } from "#shared/contract/ids.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import type { QueueClient } from "#shared/queue/client.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import type { ReadyPublisher } from "#shared/ready/publisher.ts";
import type { Environment } from "#shared/runtime/environment.ts";
import type { Valkey } from "#shared/valkey/client.ts";

/** URLs of the deployment's queues, as far as the environment names them. */
export interface QueueUrls {
  readonly completions?: string;
  readonly deadLetters?: string;
  readonly ready: ReadonlyMap<LaneId, string>;
}

/** What an operation works on. */
export interface OperateContext {
  readonly valkey: Valkey;
  readonly router: PartitionRouter;
  /** Undefined if no primary has a known library, or Valkey does not answer. */
  readonly edition: Edition | undefined;
  readonly sqs: QueueClient;
  readonly queues: QueueUrls;
  /** Undefined if the environment names no completions queue. */
  readonly completions: CompletionPublisher | undefined;
  /** Undefined if no lane has a ready queue. */
  readonly ready: ReadyPublisher | undefined;
  readonly environment: Environment;
  /** Who asks, as the command line says: a claim, not an authenticated identity. */
  readonly actor: string;
  /** `Date.now()` at which the operation must have answered. */
  readonly deadlineMs: number;
}

interface Named<Input, Output> {
  /** As the command line spells it, with a dot between a group and its member: `lanes.pause`. */
  readonly name: string;
  /** Plain JSON. Strict: an unknown property is an error. */
  readonly input: z.ZodType<Input>;
  /** Plain JSON with keys in snake_case. `--json` prints it, and schema/cli.json describes it. */
  readonly output: z.ZodType<Output>;
  run(context: OperateContext, input: Input): Promise<Output>;
}

/** An operation that writes neither to Valkey nor to a queue. */
export interface ReadOperation<Input, Output> extends Named<Input, Output> {
  readonly access: "read";
  /** Whether it also runs where the recorded partition count differs from the configured one, or cannot be read. */
  readonly runsUnchecked?: true;
}

/** The part of the input that all operations with access `write` share. */
export interface WriteInput {
  /** Report what would change, and change nothing. */
  readonly dry_run: boolean;
  /** Why the operator does this, for the audit trail. May be empty. */
  readonly reason: string;
  /** Where the next page of changes begins: `next` of the answer before. */
  readonly cursor?: string | undefined;
}

/** An operation that changes state. It checks the state again in the atomic call that changes it. */
export interface WriteOperation<Input, Output> extends Named<Input, Output> {
  readonly access: "write";
  /** What the operation acts on, for the audit trail: an id or the filter. No payload. */
  target(input: Input): string;
}

export type Operation<Input, Output> = ReadOperation<Input, Output> | WriteOperation<Input, Output>;

/** Infers the types of a read operation from its schemas. */
export function readOperation<Input, Output>(
  operation: Omit<ReadOperation<Input, Output>, "access">,
): ReadOperation<Input, Output> {
  return { ...operation, access: "read" };
}

/** Infers the types of a write operation from its schemas. */
export function writeOperation<Input extends WriteInput, Output>(
  operation: Omit<WriteOperation<Input, Output>, "access">,
): WriteOperation<Input, Output> {
  return { ...operation, access: "write" };
}

/**
 * Marks of completions that reached the depth limit. An operator learns from them why a cascade is late; dispatch itself does
 * not read them, and a lost mark changes nothing.
 */

import { command, type Pipelines } from "#shared/contract/command.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import type { CompletedExecution } from "#shared/dispatch/types.ts";

export interface DepthLimitMark {
  /** `restarted`: the completion was sent again, at depth 0. `stopped`: it was restarted too often. */
  readonly kind: "restarted" | "stopped";
  readonly depth: number;
  /** How often the cascade had been restarted before. */
  readonly generation: number;
  /** Milliseconds since the epoch, by the clock of dispatch. */
  readonly atMs: number;
}

/** A day: a sender can choose any depth for any id, so that marks must not pile up. */
const MARK_TTL_SECONDS = 86_400;

const MARK = /^(restarted|stopped)\|(\d{1,15})\|(\d{1,15})\|(\d{1,15})$/;

/** Parses the value of `ExecKeys.depthLimit`. Undefined for anything else. */
export function parseDepthLimit(text: string): DepthLimitMark | undefined {
  const [, kind, depth, generation, at] = MARK.exec(text) ?? [];
  if (kind === undefined) return undefined;
  return {
    kind: kind === "stopped" ? "stopped" : "restarted",
    depth: Number(depth),
    generation: Number(generation),
    atMs: Number(at),
  };
}

/** Writes the marks of executions. Never rejects: a failure is ignored. */
export async function markDepthLimit(
  { valkey, router }: { readonly valkey: Pipelines; readonly router: PartitionRouter },
  kind: DepthLimitMark["kind"],
  executions: readonly Pick<CompletedExecution, "executionId" | "depth" | "generation">[],
): Promise<void> {
  if (executions.length === 0) return;
  await valkey.pipelined(
    executions.map(({ executionId, depth, generation }) => {
      const { partition, depthLimit } = router.execKeys(executionId);
      const mark = [kind, depth, generation, Date.now()].join("|");
      return command(partition, "set", depthLimit, mark, "EX", MARK_TTL_SECONDS);
    }),
  );
}

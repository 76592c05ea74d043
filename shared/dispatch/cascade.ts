/** Step 5: the skipped children go back to the queue, one level deeper, and are marked as published. */

import type { Cascade } from "#shared/dispatch/work.ts";
import type { CompletionSink } from "#shared/queue/completion.ts";
import { METRICS, type Telemetry } from "#shared/telemetry.ts";
import { command, type Pipelines } from "#shared/valkey/command.ts";

/** Retention of the completions queue and of its dead-letter queue: a message can come back that late. */
const COMPLETIONS_RETENTION_DAYS = 4;
const DEAD_LETTER_RETENTION_DAYS = 14;
const SECONDS_A_DAY = 86_400;

/** How long a mark is kept, in seconds: a day longer than any message for the same skip can live. */
export const MARK_TTL_SECONDS = (COMPLETIONS_RETENTION_DAYS + DEAD_LETTER_RETENTION_DAYS + 1) * SECONDS_A_DAY;

export interface CascadePorts {
  readonly valkey: Pipelines;
  readonly sink: CompletionSink;
  readonly telemetry: Telemetry;
}

/**
 * Publishes the completion of every skipped child and then marks it. Dying in between publishes a child
 * twice, which changes nothing; marking first would lose it. What the queue did not accept is a fault of the
 * work that skipped the child, so that its message comes again and finds the child without a mark.
 */
export async function publishCascades(ports: CascadePorts, cascades: readonly Cascade[]): Promise<void> {
  const shared = groupByChild(cascades);
  if (shared.length === 0) return;
  const results = await ports.sink.send(
    shared.map(([{ cause }]) => ({
      executionId: cause.child.id,
      flowId: cause.work.flowId,
      outcome: "skipped",
      depth: cause.work.depth + 1,
      root: cause.work.root,
      ...(cause.work.traceparent === undefined ? {} : { traceparent: cause.work.traceparent }),
    })),
  );
  const accepted: Cascade[] = [];
  for (const [position, group] of shared.entries()) {
    const result = results[position];
    if (result?.ok) accepted.push(group[0]);
    else if (result) for (const { cause } of group) cause.work.faults.push(result.error);
  }
  ports.telemetry.count(METRICS.cascadesPublished, accepted.length);
  await mark(ports, accepted);
}

/** Two works of one batch may find the same child unpublished: it is sent once, for both. */
function groupByChild(cascades: readonly Cascade[]): [Cascade, ...Cascade[]][] {
  const groups = new Map<string, [Cascade, ...Cascade[]]>();
  for (const cascade of cascades) {
    const group = groups.get(cascade.cause.child.id);
    if (group === undefined) groups.set(cascade.cause.child.id, [cascade]);
    else group.push(cascade);
  }
  return [...groups.values()];
}

async function mark({ valkey, telemetry }: CascadePorts, cascades: readonly Cascade[]): Promise<void> {
  const results = await valkey.pipelined(
    cascades.map(({ cause: { child }, completedAt }) =>
      command(child.partition, "set", child.cascade, completedAt, "EX", MARK_TTL_SECONDS),
    ),
  );
  const failure = results.find((result) => !result.ok);
  // Not a fault: the cascade is on its way, and without its mark it could only be published once more.
  if (failure && !failure.ok) {
    telemetry.warn("published cascades could not be marked: a redelivery may publish them again", {
      reason: failure.error.message,
    });
  }
}

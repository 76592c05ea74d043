/** Step 5: the skipped children go back to the queue, one level deeper, and are marked as published. */

import { command, type Pipelines } from "#shared/contract/command.ts";
import type { Cascade } from "#shared/dispatch/work.ts";
import { CascadeInProgressError, OutOfTimeError, ValkeyError } from "#shared/errors.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import { METRICS, type Telemetry } from "#shared/runtime/telemetry.ts";

/** Retention of the completions queue and of its dead-letter queue: a message can come back that late. */
const COMPLETIONS_RETENTION_DAYS = 4;
const DEAD_LETTER_RETENTION_DAYS = 14;
const SECONDS_A_DAY = 86_400;

/** How long a mark is kept, in seconds: a day longer than any message for the same skip can live. */
export const MARK_TTL_SECONDS = (COMPLETIONS_RETENTION_DAYS + DEAD_LETTER_RETENTION_DAYS + 1) * SECONDS_A_DAY;

/** Children that are published before there is another look at the clock. */
const SLICE = 500;
/** For how long a child is claimed, in milliseconds, by an invocation without a deadline. */
const CLAIM_TTL_MS = 10_000;

/** All that a batch knows of one child's cascade. */
type CascadeGroup = [Cascade, ...Cascade[]];

export interface CascadePorts {
  readonly valkey: Pipelines;
  readonly publisher: CompletionPublisher;
  readonly telemetry: Telemetry;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  /** When the invocation must have answered: milliseconds since the epoch. */
  readonly deadlineMs: number;
}

/**
 * Publishes the completion of every skipped child and then marks it. Dying in between publishes a child
 * twice, which changes nothing; marking first would lose it. What the queue did not accept, or what there was no
 * time for, is a fault of the work that skipped the child, so that its message comes again and finds the child
 * without a mark.
 */
export async function publishCascades(ports: CascadePorts, cascades: readonly Cascade[]): Promise<void> {
  const groups = await claim(ports, groupByChild(cascades));
  const marking: Promise<void>[] = [];
  for (let start = 0; start < groups.length; start += SLICE) {
    if (start > 0 && ports.now() >= ports.deadlineMs) {
      leaveOver(groups.slice(start));
      break;
    }
    // The next slice is sent while this one is marked.
    marking.push(settle(ports, await publish(ports, groups.slice(start, start + SLICE))));
  }
  await Promise.all(marking);
}

interface Published {
  readonly accepted: readonly CascadeGroup[];
  readonly refused: readonly CascadeGroup[];
}

async function publish(ports: CascadePorts, groups: readonly CascadeGroup[]): Promise<Published> {
  const results = await ports.publisher.send(
    groups.map(([{ cause }]) => ({
      executionId: cause.child.id,
      flowId: cause.work.flowId,
      outcome: "skipped",
      depth: cause.work.depth + 1,
      root: cause.work.root,
      ...(cause.work.traceparent === undefined ? {} : { traceparent: cause.work.traceparent }),
    })),
    ports.deadlineMs,
  );
  const accepted: CascadeGroup[] = [];
  const refused: CascadeGroup[] = [];
  for (const [position, group] of groups.entries()) {
    const result = results[position];
    if (result?.ok) accepted.push(group);
    else if (result) {
      refused.push(group);
      for (const { cause } of group) cause.work.errors.push(result.error);
    }
  }
  ports.telemetry.count(METRICS.cascadesPublished, accepted.length);
  return { accepted, refused };
}

function leaveOver(groups: readonly CascadeGroup[]): void {
  const causes = groups.flatMap((group) => group.map(({ cause }) => cause));
  for (const [work, left] of Map.groupBy(causes, ({ work }) => work)) {
    work.errors.push(
      new OutOfTimeError(`the invocation's time is up, with ${left.length} skipped children left`),
    );
  }
}

/**
 * Leaves out what another delivery is publishing already. Without this, deliveries of one message at the same time
 * would each find the child unpublished, each publish it, and at every level of the cascade there would be as many
 * times more. Who skipped the child need not ask: so one skip is published by it and by at most one more.
 */
async function claim(ports: CascadePorts, groups: readonly CascadeGroup[]): Promise<readonly CascadeGroup[]> {
  const inherited = groups.filter(isInherited);
  if (inherited.length === 0) return groups;
  // Whoever has not published by its deadline is dead, and a message stays hidden for longer than that.
  const leftMs = Math.ceil(ports.deadlineMs - ports.now());
  const claimMs = Number.isFinite(leftMs) ? Math.max(1, leftMs) : CLAIM_TTL_MS;
  const results = await ports.valkey.pipelined(
    inherited.map(
      ([
        {
          cause: { child },
          completedAt,
        },
      ]) => command(child.partition, "set", child.cascadeClaim, completedAt, "NX", "PX", claimMs),
    ),
  );
  const lost = new Set<CascadeGroup>();
  for (const [position, group] of inherited.entries()) {
    const result = results[position];
    if (result?.ok && result.value === "OK") continue;
    lost.add(group);
    const error = result?.ok
      ? new CascadeInProgressError(
          `the cascade of ${group[0].cause.child.id} is being published by another delivery`,
        )
      : new ValkeyError("claiming a cascade failed", { cause: result?.error });
    for (const { cause } of group) cause.work.errors.push(error);
  }
  return groups.filter((group) => !lost.has(group));
}

function isInherited(group: CascadeGroup): boolean {
  return group.every((cascade) => cascade.isInherited);
}

/** Two works of one batch may find the same child unpublished: it is sent once, for both. */
function groupByChild(cascades: readonly Cascade[]): CascadeGroup[] {
  const groups = new Map<string, CascadeGroup>();
  for (const cascade of cascades) {
    const group = groups.get(cascade.cause.child.id);
    if (group === undefined) groups.set(cascade.cause.child.id, [cascade]);
    else group.push(cascade);
  }
  return [...groups.values()];
}

/** Marks what is published, and gives back the claims to what is not: its message may come again at once. */
async function settle({ valkey, telemetry }: CascadePorts, { accepted, refused }: Published): Promise<void> {
  const results = await valkey.pipelined([
    ...accepted.map(
      ([
        {
          cause: { child },
          completedAt,
        },
      ]) => command(child.partition, "set", child.cascade, completedAt, "EX", MARK_TTL_SECONDS),
    ),
    ...refused.filter(isInherited).map(
      ([
        {
          cause: { child },
        },
      ]) => command(child.partition, "del", child.cascadeClaim),
    ),
  ]);
  const failure = results.slice(0, accepted.length).find((result) => !result.ok);
  // Not a fault: the cascade is on its way, and without its mark it could only be published once more.
  if (failure && !failure.ok) {
    telemetry.count(METRICS.marksFailed);
    telemetry.warn("published cascades could not be marked: a redelivery may publish them again", {
      reason: failure.error.message,
    });
  }
}

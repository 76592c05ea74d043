/**
 * Cancels the siblings of decided groups, publishes their completions, and drains the groups.
 *
 * Everything may be repeated. A group stays pending until each sibling is cancelled and the queue has accepted its
 * completion: the sibling may have other children, which must be skipped. A process may die between any two steps; the next
 * one finds the group pending, cancels the rest, and publishes what has no mark.
 */

import type { CancelPorts, CancelRequest } from "#shared/cancellation/cancel-executions.ts";
import { cancelSiblings, markPublished, type SiblingState } from "#shared/cancellation/cancel-siblings.ts";
import {
  type DecidedGroup,
  drainGroups,
  releaseGroups,
  type TakenGroup,
  takeGroups,
} from "#shared/cancellation/sibling-groups.ts";
import type { ExecutionId } from "#shared/contract/ids.ts";
import { pairResults } from "#shared/contract/results.ts";
import { OutOfTimeError, PublishError, type SluiceError, ValkeyError } from "#shared/errors.ts";
import { chunked } from "#shared/valkey/batches.ts";

export interface CancelGroupsPorts<G extends DecidedGroup> extends CancelPorts {
  /** How long a group stays claimed if this process dies. */
  readonly claimTtlMs: number;
  /** Whether there is time for another 500 siblings. */
  readonly hasTime: () => Promise<boolean>;
  /** Publishes the completions of cancelled siblings: one result per sibling, in their order. */
  readonly publish: (siblings: readonly CancelledSibling<G>[]) => Promise<readonly SiblingPublication[]>;
}

/** A sibling whose completion must be published. */
export interface CancelledSibling<G extends DecidedGroup> {
  readonly id: ExecutionId;
  /** The groups that list it; at least one. */
  readonly groups: readonly [G, ...G[]];
  readonly completedAt: string;
  /** False: an earlier process may have published it. */
  readonly isCancelledNow: boolean;
}

/** `not_due`: not sent, since it was sent a short time ago, and may be in the queue. */
export type SiblingPublication = "published" | "not_due" | PublishError;

export type GroupResult =
  | { readonly kind: "drained" }
  /** Another process is at it. */
  | { readonly kind: "in_progress" }
  /** Some siblings are not done. The group stays pending. */
  | { readonly kind: "left"; readonly reason: SluiceError | "not_due" };

export interface CancelledGroups {
  /** One per group, in their order. */
  readonly results: readonly GroupResult[];
  /** Siblings that this call cancelled. */
  readonly cancelled: number;
}

/** Siblings that are cancelled between two checks of the time. */
const SLICE = 500;

interface Sibling<G extends DecidedGroup> extends CancelRequest {
  readonly groups: [G, ...G[]];
}

/** Why a group cannot be drained; undefined if all its siblings are done. */
type Obstacle = SluiceError | "not_due" | undefined;

/** Cancels the siblings of pending groups. Groups without an entry in the hash are drained too. */
export async function cancelGroups<G extends DecidedGroup>(
  ports: CancelGroupsPorts<G>,
  groups: readonly G[],
): Promise<CancelledGroups> {
  const taken = pairResults(groups, await takeGroups(ports.valkey, groups, ports.claimTtlMs), notTaken);
  const obstacles = new Map<G, Obstacle>();
  const siblings = new Map<ExecutionId, Sibling<G>>();
  for (const { item: group, result } of taken) {
    if (result.kind === "failed") obstacles.set(group, result.error);
    if (result.kind !== "taken") continue;
    obstacles.set(group, undefined);
    for (const id of result.siblings) {
      const known = siblings.get(id);
      if (known === undefined) siblings.set(id, { id, reason: result.reason, groups: [group] });
      else known.groups.push(group);
    }
  }
  const cancelled = await cancelAll(ports, [...siblings.values()], obstacles);
  await endGroups(ports, obstacles);
  const results = groups.map((group): GroupResult => {
    if (!obstacles.has(group)) return { kind: "in_progress" };
    const reason = obstacles.get(group);
    return reason === undefined ? { kind: "drained" } : { kind: "left", reason };
  });
  return { results, cancelled };
}

/** Cancels the siblings slice by slice, and records what keeps a group from being drained. */
async function cancelAll<G extends DecidedGroup>(
  ports: CancelGroupsPorts<G>,
  siblings: readonly Sibling<G>[],
  obstacles: Map<G, Obstacle>,
): Promise<number> {
  let cancelled = 0;
  for (const slice of chunked(siblings, () => 1, SLICE)) {
    const results = (await ports.hasTime()) ? await cancelSlice(ports, slice) : [];
    for (const { item, result } of pairResults(slice, results, outOfTime)) {
      if (result.isCancelledNow) cancelled += 1;
      if (result.obstacle === undefined) continue;
      for (const group of item.groups) obstacles.set(group, result.obstacle);
    }
  }
  return cancelled;
}

interface SliceResult {
  readonly obstacle: Obstacle;
  readonly isCancelledNow: boolean;
}

function outOfTime(): SliceResult {
  const obstacle = new OutOfTimeError("the time was too short to cancel all siblings");
  return { obstacle, isCancelledNow: false };
}

/** Cancels siblings, publishes those that are not published, and marks them: one result per sibling. */
async function cancelSlice<G extends DecidedGroup>(
  ports: CancelGroupsPorts<G>,
  slice: readonly Sibling<G>[],
): Promise<SliceResult[]> {
  const states = pairResults(slice, await cancelSiblings(ports, slice), noState);
  const unpublished = states.flatMap(({ item: { id, groups }, result }): CancelledSibling<G>[] => {
    if (result.kind !== "unpublished") return [];
    const { completedAt, isCancelledNow } = result;
    return [{ id, groups, completedAt, isCancelledNow }];
  });
  const answers = unpublished.length === 0 ? [] : await ports.publish(unpublished);
  const sent = pairResults(
    unpublished,
    answers,
    ({ id }): SiblingPublication => new PublishError(`sibling ${id} has no result`),
  );
  await markPublished(
    ports.valkey,
    sent.flatMap(({ item: { id, completedAt }, result }) =>
      result === "published" ? [{ keys: ports.router.execKeys(id), completedAt }] : [],
    ),
  );
  const publications = new Map(sent.map(({ item, result }) => [item.id, result]));
  return states.map(({ item, result }): SliceResult => {
    if (result.kind === "failed") return { obstacle: result.error, isCancelledNow: false };
    const publication = publications.get(item.id);
    const obstacle = publication === "published" ? undefined : publication;
    return { obstacle, isCancelledNow: result.isCancelledNow };
  });
}

/**
 * Drains the groups whose siblings are all done. The claims of the others end at once, so that the next process may
 * continue, but by themselves after a send without an answer: the queue may have accepted it.
 */
async function endGroups<G extends DecidedGroup>(
  { valkey }: CancelPorts,
  obstacles: Map<G, Obstacle>,
): Promise<void> {
  const done = [...obstacles].flatMap(([group, obstacle]) => (obstacle === undefined ? [group] : []));
  const released = [...obstacles].flatMap(([group, obstacle]) =>
    obstacle === undefined || isUnanswered(obstacle) ? [] : [group],
  );
  for (const { group, error } of await drainGroups(valkey, done)) obstacles.set(group, error);
  await releaseGroups(valkey, [...done, ...released]);
}

function isUnanswered(obstacle: Obstacle): boolean {
  return obstacle instanceof PublishError && obstacle.outcome === "unknown";
}

function noState(): SiblingState {
  return { kind: "failed", error: new ValkeyError("the sibling has no state") };
}

function notTaken(): TakenGroup {
  return { kind: "failed", error: new ValkeyError("the group has no result") };
}

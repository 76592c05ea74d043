/** What a blocked execution waits for in the end: the chain of blocked upstreams up to one that is not blocked. */

import { z } from "zod";
import { type ExplainContext, hasTime, readSetPage } from "#operate/explain/read.ts";
import { readEdges, readUpstreams, type Standing, standingOf } from "#operate/explain/upstreams.ts";
import { readTaskNames } from "#operate/task-names.ts";
import type { ExecutionId } from "#shared/contract/ids.ts";

/** Links that are read and shown. */
const MAX_LINKS = 100;
const BLOCKED = "waiting_children";

export const waitSchema = z.object({
  chain: z
    .array(z.object({ execution_id: z.string(), task: z.string(), state: z.string() }))
    .max(MAX_LINKS)
    .describe(
      "The first link is an upstream that is blocked too, and each further one is an upstream of the one before. The last one is " +
        "not blocked: explain it. `state` is its public_state; ended: its completion has not arrived; no record: nothing is known of it",
    ),
});

export type Wait = z.infer<typeof waitSchema>;

/** Follows the chain from a blocked upstream. Each level takes three round trips. */
export async function readWait(
  context: ExplainContext,
  first: ExecutionId,
  nowMs: number,
  graceMs: number,
): Promise<Wait> {
  const links: { readonly id: ExecutionId; readonly state: string }[] = [{ id: first, state: BLOCKED }];
  const seen = new Set([first]);
  let at: ExecutionId | undefined = first;
  while (at !== undefined && links.length < MAX_LINKS && hasTime(context)) {
    const next = await nextLink(context, at, nowMs, graceMs);
    if (next === undefined || seen.has(next.id)) break;
    seen.add(next.id);
    links.push(next);
    at = next.state === BLOCKED ? next.id : undefined;
  }
  const names = await readTaskNames(
    context,
    links.map(({ id }) => id),
  );
  return {
    chain: links.map(({ id, state }, position) => ({ execution_id: id, task: names[position] ?? "", state })),
  };
}

/** The upstream that holds an execution back the most, of the first page of its unresolved edges. */
async function nextLink(
  context: ExplainContext,
  id: ExecutionId,
  nowMs: number,
  graceMs: number,
): Promise<{ readonly id: ExecutionId; readonly state: string } | undefined> {
  const keys = context.router.execKeys(id);
  const { members } = await readSetPage(
    context,
    { partition: keys.partition, key: keys.depsUnresolved },
    "0",
  );
  const edges = await readEdges(context, keys, members, () => undefined);
  const upstreams = await readUpstreams(context, [...new Set(edges.map(({ upstream }) => upstream))]);
  const [next] = upstreams
    .map(({ id: upstream, record }) => ({ id: upstream, ...linkOf(standingOf(record, nowMs, graceMs)) }))
    .toSorted((left, right) => left.rank - right.rank);
  return next && { id: next.id, state: next.state };
}

/** What needs an operator has the lowest rank, and what is about to be resolved the highest. */
function linkOf(standing: Standing): { readonly state: string; readonly rank: number } {
  switch (standing.kind) {
    case "no_record":
      return { state: "no record", rank: 0 };
    case "invalid":
    case "overdue":
      return { state: "ended", rank: 1 };
    case "not_ended":
      return { state: standing.state, rank: standing.state === BLOCKED ? 3 : 2 };
    case "in_flight":
      return { state: "ended", rank: 4 };
  }
}

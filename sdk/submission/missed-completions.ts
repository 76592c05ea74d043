import type { Plan, PlannedTask } from "#sdk/submission/plan.ts";
import { command, type Pipelines } from "#shared/contract/command.ts";
import type { Completion } from "#shared/contract/message.ts";
import { fieldText, isTerminalOutcome, type TerminalOutcome } from "#shared/contract/record.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import { readEach } from "#shared/valkey/batches.ts";

/**
 * Sends the completion of every execution that has ended and has a child which does not know it. A root
 * may be taken and finished before its edges are staged: its own completion then found no edges. Returns
 * how many were sent; throws a PublishError when the queue did not take one.
 */
export async function sendMissedCompletions(
  valkey: Pipelines,
  completions: CompletionPublisher,
  plan: Plan,
): Promise<number> {
  const { partition, id: flowId } = plan.flow;
  const upstreams = plan.tasks.filter(({ outgoing }) => outgoing.length > 0);
  const states = await readEach(valkey, upstreams, ({ keys }) =>
    command(partition, "hmget", keys.core, "lifecycle_phase", "terminal_outcome"),
  );
  const ended = upstreams.flatMap((planned, position) => {
    const outcome = outcomeOf(states[position]);
    return outcome === undefined ? [] : [{ planned, outcome }];
  });
  const edges = ended.flatMap(({ planned }) => planned.outgoing);
  const known = await readEach(valkey, edges, ({ edge, child }) =>
    command(partition, "hget", child.dep(edge.id), "state"),
  );
  const waiting = new Set(edges.filter((_, position) => known[position] === "unsatisfied").map(upstreamOf));
  const due = ended
    .filter(({ planned }) => waiting.has(planned.keys.id))
    .map(({ planned, outcome }): Completion => {
      const { id } = planned.keys;
      return { executionId: id, flowId, outcome, depth: 0, root: id };
    });
  if (due.length === 0) return 0;
  for (const sent of await completions.send(due)) if (!sent.ok) throw sent.error;
  return due.length;
}

function upstreamOf({ edge }: PlannedTask["outgoing"][number]): string {
  return edge.upstream;
}

function outcomeOf(state: unknown): TerminalOutcome | undefined {
  const [phase, outcome] = Array.isArray(state) ? state.map(fieldText) : [];
  return phase === "terminal" && outcome !== undefined && isTerminalOutcome(outcome) ? outcome : undefined;
}

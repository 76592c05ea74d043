import type { Plan } from "#sdk/submission/plan.ts";
import { command, type Pipelines } from "#shared/contract/command.ts";
import type { Completion } from "#shared/contract/message.ts";
import { fieldText, isTerminalOutcome, type TerminalOutcome } from "#shared/contract/record.ts";
import { pairResults } from "#shared/contract/results.ts";
import { PublishError } from "#shared/errors.ts";
import type { SendResult } from "#shared/queue/batch-sender.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import { readEach } from "#shared/valkey/batches.ts";

/**
 * Publishes the completion of every execution that ended while one of its children still waits for it. A worker can
 * finish a root before the root's edges are staged: the completion that the worker sends then resolves no edges.
 * Returns the number of completions sent.
 *
 * @throws PublishError if the publisher did not accept one of them.
 * @throws ValkeyError if a read fails.
 */
export async function sendMissedCompletions(
  valkey: Pipelines,
  completions: CompletionPublisher,
  plan: Plan,
): Promise<number> {
  const { partition, id: flowId } = plan.flow;
  const upstreams = plan.tasks.filter(({ outgoing }) => outgoing.length > 0);
  const records = await readEach(valkey, upstreams, ({ keys }) =>
    command(partition, "hmget", keys.core, "lifecycle_phase", "terminal_outcome"),
  );
  const ended = upstreams.flatMap((planned, position) => {
    const outcome = outcomeIn(records[position]);
    return outcome === undefined ? [] : [{ planned, outcome }];
  });
  const edges = ended.flatMap(({ planned }) => planned.outgoing);
  const edgeStates = await readEach(valkey, edges, ({ edge, child }) =>
    command(partition, "hget", child.dep(edge.id), "state"),
  );
  const missed = new Set<string>(
    edges.flatMap(({ edge }, position) => (edgeStates[position] === "unsatisfied" ? [edge.upstream] : [])),
  );
  const unsent = ended
    .filter(({ planned }) => missed.has(planned.keys.id))
    .map(({ planned, outcome }): Completion => {
      const { id } = planned.keys;
      return { executionId: id, flowId, outcome, depth: 0, root: id };
    });
  if (unsent.length === 0) return 0;
  for (const { result } of pairResults(unsent, await completions.send(unsent), notSent)) {
    if (!result.ok) throw result.error;
  }
  return unsent.length;
}

function notSent({ executionId }: Completion): SendResult {
  return { ok: false, error: new PublishError(`the publisher returned no result for ${executionId}`) };
}

function outcomeIn(record: unknown): TerminalOutcome | undefined {
  const [phase, outcome] = Array.isArray(record) ? record.map(fieldText) : [];
  return phase === "terminal" && outcome !== undefined && isTerminalOutcome(outcome) ? outcome : undefined;
}

import type { Plan } from "#sdk/submission/plan.ts";
import { isRoot } from "#sdk/submission/roots.ts";
import type { Pipelines } from "#shared/contract/command.ts";
import { announceUnmarked } from "#shared/ready/announce.ts";
import type { ReadyPublisher } from "#shared/ready/publisher.ts";

/**
 * Announces the roots that can be claimed and are not announced yet. A root with a delay of at most 15 minutes gets a delayed
 * message; the reconciler announces the others when it makes them eligible. Call it after the release of the roots and before
 * the flow is marked as complete: the reconciler re-sends messages of complete flows only.
 *
 * @throws PublishError if the queue did not accept a message, or its answer is lost. Submit again: what is marked is not sent
 * twice.
 * @throws ValkeyError if a record cannot be read or a mark cannot be written.
 */
export async function announceRoots(
  valkey: Pipelines,
  ready: ReadyPublisher,
  plan: Plan,
  traceparent: string | undefined,
): Promise<void> {
  const roots = plan.tasks.filter((task) => isRoot(task) && ready.announces(task.task.lane));
  const { results, markError } = await announceUnmarked(
    { valkey, router: plan.router, ready },
    roots.map(({ keys }) => ({
      executionId: keys.id,
      flowId: plan.flow.id,
      ...(traceparent === undefined ? {} : { traceparent }),
    })),
  );
  for (const result of results) if (result.kind === "failed") throw result.error;
  if (markError !== undefined) throw markError;
}

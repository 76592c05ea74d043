import { randomUUID } from "node:crypto";
import type { Plan } from "#sdk/submission/plan.ts";
import { isRoot } from "#sdk/submission/roots.ts";
import { fcall, type ValkeyCommand, type ValkeyResult } from "#shared/contract/command.ts";
import { editionOf } from "#shared/contract/edition.ts";
import { mintExecutionId, parseLaneId, unwrap } from "#shared/contract/ids.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { promoteDelayed } from "#shared/contract/ownership.ts";
import { applyDependencyToChild } from "#shared/contract/submission.ts";
import { ConfigurationError, messageOf, SubmissionError } from "#shared/errors.ts";
import { replyOrThrow, valueOrThrow } from "#shared/valkey/batches.ts";

/** A call that writes nothing and shows whether the loaded library can do what a plan needs. */
export interface LibraryProbe {
  readonly call: ValkeyCommand;
  /** Throws a SubmissionError with advice if the library cannot, and a ValkeyError if none is loaded. */
  check(result: ValkeyResult | undefined): void;
}

/** For a plan without tasks. */
const DEFAULT_LANE = unwrap(parseLaneId("default"));

export function libraryProbes(plan: Plan): LibraryProbe[] {
  return [...promotionProbe(plan), ...edgeProbe(plan), ...groupProbe(plan), ...delayProbe(plan)];
}

/** A call that only Sluice 0.1's library refuses. It writes nothing, because the execution does not exist. */
function promotionProbe(plan: Plan): LibraryProbe[] {
  const lane = plan.tasks[0]?.task.lane ?? DEFAULT_LANE;
  return [
    {
      call: promoteDelayed({ keys: absentExecution(plan), index: plan.index, lane }, 0),
      check(result) {
        if (replyOrThrow(valueOrThrow(result)).kind === "done") return;
        throw refusal(
          "the loaded flowfabric library is that of Sluice 0.1, which cannot release roots; nothing was written: deploy " +
            "the current version first, which replaces it",
        );
      },
    },
  ];
}

/**
 * A call that fails if no library is loaded, or an outdated one of Sluice's that rejects surplus KEYS. Any other library
 * refuses the call and writes nothing, because the edge's child does not exist.
 *
 * The probe is needed because Valkey does not roll back a transaction. A child whose edges fail to apply would have no
 * dependencies, and a worker could run it too early.
 */
function edgeProbe(plan: Plan): LibraryProbe[] {
  const child = plan.tasks.find((planned) => !isRoot(planned));
  const [edge] = child?.incoming ?? [];
  if (child === undefined || edge === undefined) return [];
  const { flow, index } = plan;
  return [
    {
      call: applyDependencyToChild(flow, absentExecution(plan), index, child.task.lane, edge, 0, Date.now()),
      check: (result) => replyOrThrow(valueOrThrow(result)),
    },
  ];
}

/** Groups of edges need the 14-KEYS edition: the other one would wait for all dependencies. */
function groupProbe(plan: Plan): LibraryProbe[] {
  const task = plan.tasks.find((planned) => planned.task.waitFor !== undefined)?.task;
  if (task === undefined) return [];
  return [
    {
      call: fcall(plan.flow.partition, "ff_version", [], []),
      check(result) {
        const found = editionFound(valueOrThrow(result));
        if (found === "14-KEYS edition") return;
        throw refusal(
          `task ${JSON.stringify(task.id)} has waitFor, which needs the 14-KEYS edition of the flowfabric library, but ` +
            `the loaded library is the ${found}; nothing was written: load the 14-KEYS edition (for Sluice's library, ` +
            "start the functions with LIBRARY_EDITION=14), or remove waitFor",
        );
      },
    },
  ];
}

function editionFound(version: unknown): string {
  try {
    return `${editionOf(version)}-KEYS edition`;
  } catch (error) {
    if (!(error instanceof ConfigurationError)) throw error;
    return `unknown version ${JSON.stringify(String(version))}`;
  }
}

/** FlowFabric's library forgets the delay of an execution that gets a dependency (contract, section 11). */
function delayProbe(plan: Plan): LibraryProbe[] {
  const task = plan.tasks.find((planned) => !isRoot(planned) && (planned.task.delaySeconds ?? 0) > 0)?.task;
  if (task === undefined) return [];
  return [
    {
      call: fcall(plan.flow.partition, "sluice_revision", [], []),
      check(result) {
        if (result?.ok !== false || !/Function not found/.test(messageOf(result.error))) {
          valueOrThrow(result);
          return;
        }
        throw refusal(
          `task ${JSON.stringify(task.id)} has dependencies and a delay, which the loaded flowfabric library forgets; ` +
            "nothing was written: remove delaySeconds from tasks with dependencies, or load Sluice's library",
        );
      },
    },
  ];
}

function refusal(message: string): SubmissionError {
  return new SubmissionError(message, { retryable: false });
}

function absentExecution({ router, flow }: Plan): ExecKeys {
  return router.execKeys(unwrap(mintExecutionId(flow.partition, randomUUID())));
}

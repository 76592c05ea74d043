/** Executions that wait although nothing is left to wait for: the function of the contract lets them run. */

import type { ValkeyResult } from "#shared/contract/command.ts";
import { promoteBlockedToEligible } from "#shared/contract/graph.ts";
import { decodeReply } from "#shared/contract/reply.ts";
import type { Blocked } from "#shared/reconcile/blocked.ts";
import type { Failures, Run } from "#shared/reconcile/run.ts";

const NOT_SATISFIED = "deps_not_satisfied";

/**
 * Promotes them, in one round trip. The function judges once more, so that an edge which was applied since they were
 * read, or another run's promotion, ends as an ordinary refusal.
 */
export async function promote(run: Run, children: readonly Blocked[], failures: Failures): Promise<void> {
  const sound = children.filter((child) => isSound(run, child));
  if (sound.length === 0) return;
  for (const [position, result] of (await callAll(run, sound)).entries()) {
    const child = sound[position];
    if (child === undefined) continue;
    if (result.ok) conclude(run, child, result.value, failures);
    else failures.add(child.unit, result.error);
  }
}

/** A library that counts differently from ours may not look at what is checked here. */
function isSound(run: Run, { keys, unit, lane, impossible, changedAtMs }: Blocked): boolean {
  // It was to be skipped. To let it run would run it without what it depends on.
  const isImpossible = !(impossible <= 0);
  if (isImpossible || lane !== unit.lane) {
    run.unreadable("a blocked execution with nothing unresolved is left alone", {
      execution_id: keys.id,
      reason: isImpossible
        ? `${impossible} of its edges are impossible`
        : `it stands in the index of the lane ${unit.lane}, and its record has the lane ${lane}`,
    });
    return false;
  }
  if (changedAtMs !== undefined) run.noteAge(changedAtMs);
  return true;
}

async function callAll(run: Run, children: readonly Blocked[]): Promise<ValkeyResult[]> {
  const results = await callOnce(run, children);
  const missing = [...results.keys()].filter((position) => isFunctionMissing(results[position]));
  if (missing.length === 0) return results;
  await run.ports.ensureLibrary();
  const again = await callOnce(
    run,
    missing.flatMap((position) => children[position] ?? []),
  );
  return results.map((result, position) => again[missing.indexOf(position)] ?? result);
}

function callOnce(run: Run, children: readonly Blocked[]): Promise<ValkeyResult[]> {
  return run.ports.valkey.pipelined(
    children.map(({ keys, unit }) =>
      promoteBlockedToEligible(keys, run.ports.router.indexKeys(keys.partition), unit.lane, run.serverNowMs),
    ),
  );
}

function isFunctionMissing(result: ValkeyResult | undefined): boolean {
  return result?.ok === false && result.error.message.startsWith("ERR Function not found");
}

function conclude(run: Run, { keys, unit }: Blocked, value: unknown, failures: Failures): void {
  const reply = decodeReply(value);
  if (!reply.ok) {
    failures.add(unit, reply.error);
  } else if (reply.value.kind === "done") {
    run.tally.promoted += 1;
  } else {
    run.tally.refused += 1;
    const { code, detail } = reply.value;
    // Nothing is unresolved, and yet it counts edges as unsatisfied: no completion will ever change that.
    if (code === NOT_SATISFIED && detail[1] === "0") {
      run.unreadable("a blocked execution with nothing unresolved counts unsatisfied edges", {
        execution_id: keys.id,
        unsatisfied: detail[0] ?? "",
      });
    }
  }
}

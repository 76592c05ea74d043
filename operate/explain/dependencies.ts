/** Why an execution still waits for its dependencies. */

import { type Cause, cause } from "#operate/explain/causes.ts";
import type { UnmatchedEdges } from "#operate/explain/edges.ts";
import { nameOf, sluice } from "#operate/explain/read.ts";
import { hasQuorum, isBlocked, type Subject, type SubjectGroup } from "#operate/explain/subject.ts";
import type { EdgeGroup, Unresolved } from "#operate/explain/upstreams.ts";
import type { Wait } from "#operate/explain/wait-chain.ts";
import { duration, plural } from "#operate/words.ts";

const BLOCKED = "waiting_children";
/** What a worker or a scheduler does with an upstream that has not ended. */
const STATES: Readonly<Record<string, string>> = {
  active: "a worker runs it",
  waiting: "it waits for a worker",
  delayed: "it is delayed",
  [BLOCKED]: "it waits for its own dependencies",
  ended: "its completion has not arrived",
  suspended: "it is suspended",
  rate_limited: "admission holds it back",
};

/** The causes of all unresolved edges but those whose upstream ended longer ago than the grace period. */
export function waitingCauses(
  subject: Subject,
  unresolved: Unresolved,
  wait: Wait | undefined,
  graceMs: number,
): Cause[] {
  const causes: Cause[] = [];
  for (const [state, alike] of unresolved.notEnded) {
    const last = state === BLOCKED ? wait?.chain.at(-1) : undefined;
    const explained = last?.execution_id ?? alike.examples[0]?.upstream;
    causes.push(
      ofEdges(
        "upstream_not_ended",
        alike,
        `${plural(alike.count, "upstream")} ${alike.count === 1 ? "has" : "have"} not ended: ${describeState(state)}.` +
          (wait === undefined || last === undefined ? "" : ` ${describeWait(wait, last)}`),
        explained === undefined ? [] : [sluice("explain", explained)],
      ),
    );
  }
  const { inFlight, withoutRecord, invalidUpstream, invalidDependency } = unresolved;
  if (inFlight.count > 0) {
    causes.push(
      ofEdges(
        "completion_in_flight",
        inFlight,
        `${plural(inFlight.count, "upstream")} ended within the last ${duration(graceMs)}: dispatch is expected to update ` +
          "this execution now.",
      ),
    );
  }
  if (withoutRecord.count > 0) {
    causes.push(
      ofEdges(
        "upstream_purged",
        withoutRecord,
        `${plural(withoutRecord.count, "upstream")} ${withoutRecord.count === 1 ? "has" : "have"} no record: deleted, or never ` +
          "created. Nothing can resolve such an edge. Submit the workflow again with the same flow id if its submission " +
          "stopped halfway; otherwise cancel this execution or replace the flow.",
        resubmitOrCancel(subject),
      ),
    );
  }
  if (invalidUpstream.count > 0) {
    causes.push(
      ofEdges(
        "upstream_invalid",
        invalidUpstream,
        `${plural(invalidUpstream.count, "upstream")} ended with an outcome that the contract does not define: dispatch refuses ` +
          "to resolve their edges.",
        [sluice("doctor")],
      ),
    );
  }
  if (invalidDependency.count > 0) {
    const [first] = invalidDependency.examples;
    causes.push(
      cause(
        "dependency_invalid",
        `${plural(invalidDependency.count, "edge")} cannot be resolved: ${first?.reason ?? "the dep record is invalid"}. ` +
          "Cancel this execution, or submit the workflow again with another flow id.",
        {
          count: invalidDependency.count,
          involved: { edges: invalidDependency.examples.map(({ edge }) => edge) },
          next: [sluice("doctor"), sluice("cancel", subject.keys.id, "--dry-run")],
        },
      ),
    );
  }
  return causes;
}

function describeState(state: string): string {
  return STATES[state] === undefined ? state : `${state}, ${STATES[state]}`;
}

function describeWait({ chain }: Wait, last: Wait["chain"][number]): string {
  if (last.state === BLOCKED)
    return `The chain of blocked upstreams has ${plural(chain.length, "level")} or more.`;
  return (
    `Followed upwards, the first one leads to ${nameOf(last.execution_id, last.task)}, ${plural(chain.length, "level")} above: ` +
    `${describeState(last.state)}.`
  );
}

/** Edges that the graph has and the execution does not know, or the reverse. */
export function unmatchedCauses(subject: Subject, { notApplied, notStaged }: UnmatchedEdges): Cause[] {
  const causes: Cause[] = [];
  if (notApplied.count > 0) {
    causes.push(
      cause(
        "edge_not_applied",
        `${plural(notApplied.count, "edge")} ${notApplied.count === 1 ? "is" : "are"} staged and not applied: the flow's graph has ` +
          "the dependency, and this execution does not wait for it. The process that adds the edge stopped in between; a " +
          "completion of the upstream fails with invalid_dependency until the edge is applied. Submit the workflow again with " +
          "the same flow id.",
        { count: notApplied.count, involved: { edges: notApplied.examples }, next: resubmit(subject) },
      ),
    );
  }
  if (notStaged.count > 0) {
    causes.push(
      cause(
        "edge_not_staged",
        `${plural(notStaged.count, "edge")} ${notStaged.count === 1 ? "is" : "are"} applied and not staged: this execution waits, and ` +
          "the end of the upstream does not lead here. The submission stopped in between: submit the workflow again with the " +
          "same flow id.",
        { count: notStaged.count, involved: { edges: notStaged.examples }, next: resubmit(subject) },
      ),
    );
  }
  return causes;
}

/** The state of the edge group, and executions that no dependency holds back any more. */
export function decisionCauses(subject: Subject): Cause[] {
  if (!isBlocked(subject)) return [];
  const { keys, meta, unresolvedEdges, flow } = subject;
  const flowId = flow?.keys.id;
  const reconcile = flowId === undefined ? sluice("reconcile") : sluice("reconcile", "--flow", flowId);
  const group = flow?.group;
  if (group !== undefined && hasQuorum(group)) {
    if (group.group_state === "satisfied") {
      return [notReleased("Its group of edges is satisfied, and it is still blocked.", reconcile)];
    }
    if (group.group_state === "impossible") {
      return [notSkipped("Its group of edges can no longer be satisfied, and it is not skipped.", keys.id)];
    }
    return [cause("group_undecided", describeGroup(group), { count: unresolvedEdges })];
  }
  if (Number(meta.impossible_required_count) > 0) {
    return [notSkipped("One of its dependencies can never be satisfied, and it is not skipped.", keys.id)];
  }
  if (unresolvedEdges === 0) {
    return [notReleased("None of its dependencies is unresolved, and it is still blocked.", reconcile)];
  }
  return [];
}

function describeGroup(group: SubjectGroup): string {
  const [n, succeeded] = [Number(group.n), Number(group.succeeded)];
  const lost = Number(group.failed) + Number(group.skipped);
  const needed = group.policy_variant === "quorum" ? Number(group.k) : 1;
  return (
    `Its group of edges (${group.policy_variant}${group.policy_variant === "quorum" ? ` of ${needed}` : ""}) is undecided: ` +
    `${succeeded} of ${plural(n, "edge")} succeeded, ${lost} did not, ${Math.max(0, n - succeeded - lost)} are open. It needs ` +
    `${plural(Math.max(0, needed - succeeded), "more success", "more successes")}.`
  );
}

function notReleased(text: string, reconcile: string): Cause {
  return cause("not_released", `${text} The reconciler's task dependencies releases it.`, {
    next: [`${reconcile} --dry-run`, reconcile],
  });
}

function notSkipped(text: string, id: string): Cause {
  return cause("not_skipped", `${text} It will never run: cancel it, or replay the upstream.`, {
    next: [sluice("cancel", id, "--dry-run")],
  });
}

function ofEdges(
  code: Parameters<typeof cause>[0],
  { count, examples }: EdgeGroup,
  text: string,
  next: readonly string[] = [],
): Cause {
  return cause(code, text, {
    count,
    involved: {
      executions: examples.map(({ upstream }) => upstream),
      edges: examples.map(({ edge }) => edge),
    },
    next,
  });
}

function resubmit({ flow }: Subject): string[] {
  return flow === undefined ? [] : [sluice("status", flow.keys.id)];
}

function resubmitOrCancel(subject: Subject): string[] {
  return [...resubmit(subject), sluice("cancel", subject.keys.id, "--dry-run")];
}

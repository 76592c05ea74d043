/**
 * A model of the functions on leases, time and cancelling, written from the contract (docs/contract.md) and from what the
 * headers of lua/*.lua document as different. It knows nothing of Valkey: a call changes the objects below and returns the
 * reply. `now` is the server's time in milliseconds.
 */

import type { Edition } from "#shared/contract/edition.ts";
import type { Reply } from "#shared/contract/reply.ts";

export type Fields = Record<string, string>;
/** An index: scores by execution. A set has the score 1. */
export type Index = Record<string, number>;

export interface Execution {
  readonly id: string;
  readonly core: Fields;
  lease: Fields | undefined;
  grant: Fields | undefined;
  readonly attempts: Fields[];
  /** By edge id. */
  readonly deps: Record<string, { state: string; readonly upstream: string }>;
  readonly meta: { unsatisfied: number; impossible: number };
  group: Group | undefined;
  /** The events of `lease:history`, with their reasons. */
  readonly history: string[];
}

export interface Group {
  policy: string;
  onSatisfied: string;
  k: number;
  n: number;
  succeeded: number;
  failed: number;
  skipped: number;
  state: string;
  pending: boolean;
  siblings: string[];
}

export interface World {
  readonly edition: Edition;
  readonly flowId: string;
  readonly executions: Execution[];
  /** By name: those of the lane, `lease_expiry`, `attempt_timeout`, `execution_deadline`, `worker:<instance>`. */
  readonly indexes: Record<string, Index>;
  readonly flow: { state: string; reason: string };
  pendingCancels: string[];
  backlog: number | undefined;
  pendingGroups: string[];
  /** Published completions, as `<execution> <outcome>`. */
  readonly published: string[];
}

export interface Worker {
  readonly workerId: string;
  readonly instanceId: string;
}

export interface LeaseRef {
  readonly leaseId: string;
  readonly epoch: string;
  readonly attemptId: string;
  readonly attemptIndex: number;
}

const TIMEOUTS = ["attempt_timeout", "execution_deadline"];
const RUNNABLE_INDEXES: Readonly<Record<string, string>> = {
  eligible_now: "eligible",
  not_eligible_until_time: "delayed",
  blocked_by_dependencies: "blockedDependencies",
};
const DEFAULT_RECLAIM_LIMIT = 100;
const MAX_REPLAYS = 10;
const GRACE_MS = 30_000;

export const done = (...fields: string[]): Reply => ({ kind: "done", status: "OK", fields });
const already = (word: string): Reply => ({ kind: "done", status: "ALREADY_SATISFIED", fields: [word] });
const refused = (code: string, ...detail: string[]): Reply => ({ kind: "refused", code, detail });

const text = (core: Fields, name: string): string => core[name] ?? "";
const number = (core: Fields, name: string): number => Number(core[name] ?? "") || 0;

export class Model {
  readonly world: World;
  readonly now: number;

  constructor(world: World, now: number) {
    this.world = world;
    this.now = now;
  }

  grant({ core, ...execution }: Execution, worker: Worker): Reply {
    const found = this.world.executions.find(({ id }) => id === execution.id);
    if (text(core, "lifecycle_phase") !== "runnable" || text(core, "eligibility_state") !== "eligible_now") {
      return refused(
        "execution_not_eligible",
        text(core, "lifecycle_phase"),
        text(core, "eligibility_state"),
      );
    }
    if (execution.grant !== undefined) return refused("grant_already_exists");
    if (found !== undefined) found.grant = grantOf(worker);
    return done(execution.id);
  }

  claim(
    execution: Execution,
    worker: Worker,
    terms: { leaseId: string; attemptId: string; ttlMs: number; renewBeforeMs: number; timeoutMs: number },
  ): Reply {
    const { core } = execution;
    const phase = text(core, "lifecycle_phase");
    const eligibility = text(core, "eligibility_state");
    if (phase !== "runnable") return refused("execution_not_leaseable", phase, eligibility);
    if (eligibility !== "eligible_now") return refused("execution_not_leaseable", phase, eligibility);
    if (!isGrantedTo(execution, worker, "instance")) return refused("invalid_claim_grant");
    const types: Fields = { pending_retry_attempt: "retry", pending_replay_attempt: "replay" };
    const type = types[text(core, "attempt_state")] ?? "initial";
    this.#startAttempt(execution, worker, terms, type, this.now + terms.renewBeforeMs);
    // Marks of an earlier lease must not count against this one.
    clear(core, "lease_expired_at", "lease_revoked_at", "lease_revoke_reason");
    if (text(core, "started_at") === "") core.started_at = String(this.now);
    this.#remove("eligible", execution);
    if (terms.timeoutMs > 0) this.#add("attempt_timeout", execution, this.now + terms.timeoutMs);
    const epoch = text(core, "current_lease_epoch");
    if (execution.history.length > 0) execution.history.push("acquired");
    return done(
      terms.leaseId,
      epoch,
      String(this.now + terms.ttlMs),
      terms.attemptId,
      text(core, "current_attempt_index"),
      type,
    );
  }

  complete(execution: Execution, lease: LeaseRef): Reply {
    const refusal = this.#refuseUnlessOwned(execution, lease);
    if (refusal !== undefined) return refusal;
    this.#endAttempt(execution, "ended_success");
    this.#releaseLease(execution, "completed");
    this.#end(execution, "success", "attempt_terminal", {});
    return done("completed");
  }

  fail(
    execution: Execution,
    lease: LeaseRef,
    reason: string,
    retries: { max: number; delayMs: number },
  ): Reply {
    const { core } = execution;
    const refusal = this.#refuseUnlessOwned(execution, lease);
    if (refusal !== undefined) return refusal;
    this.#endAttempt(execution, "ended_failure", reason);
    if (number(core, "retry_count") < retries.max) {
      const delayUntil = String(this.now + retries.delayMs);
      this.#releaseLease(execution, "failed_retry_scheduled");
      this.#move(execution, "delayed", "waiting_for_retry_backoff", "pending_retry_attempt", {
        retry_count: String(number(core, "retry_count") + 1),
        delay_until: delayUntil,
        failure_reason: reason,
        pending_retry_reason: reason,
        pending_previous_attempt_index: text(core, "current_attempt_index"),
        current_attempt_id: "",
      });
      this.#add("delayed", execution, Number(delayUntil));
      return done("retry_scheduled", delayUntil);
    }
    this.#releaseLease(execution, "failed_terminal");
    this.#end(execution, "failed", "attempt_terminal", { failure_reason: reason });
    return done("terminal_failed");
  }

  renew(execution: Execution, lease: LeaseRef, ttlMs: number): Reply {
    const { core } = execution;
    const given = [lease.leaseId, lease.epoch, lease.attemptId].filter((part) => part !== "").length;
    if (given === 0) return refused("fence_required");
    if (given < 3) return refused("partial_fence_triple");
    if (text(core, "lifecycle_phase") !== "active") return this.#notActive(execution, 4);
    if (text(core, "ownership_state") === "lease_revoked") return refused("lease_revoked");
    if (this.#hasExpired(core)) {
      this.#markExpired(execution);
      return refused("lease_expired");
    }
    const isCurrent =
      isCurrentLease(core, lease) && text(core, "current_attempt_index") === String(lease.attemptIndex);
    if (!isCurrent) return refused("stale_lease");
    const times = {
      expiresAt: String(this.now + ttlMs),
      renewBy: String(this.now + Math.floor((ttlMs * 2) / 3)),
    };
    Object.assign(core, {
      lease_expires_at: times.expiresAt,
      lease_last_renewed_at: String(this.now),
      lease_renewal_deadline: times.renewBy,
      last_mutation_at: String(this.now),
    });
    Object.assign(execution.lease ?? {}, {
      expires_at: times.expiresAt,
      last_renewed_at: String(this.now),
      renewal_deadline: times.renewBy,
    });
    this.#add("lease_expiry", execution, Number(times.expiresAt));
    return done(times.expiresAt);
  }

  markExpiredIfDue(execution: Execution): Reply {
    const { core } = execution;
    if (text(core, "lifecycle_phase") !== "active") {
      this.#remove("lease_expiry", execution);
      return already("not_active");
    }
    const ownership = text(core, "ownership_state");
    if (ownership === "lease_expired_reclaimable") return already("already_expired");
    if (ownership === "lease_revoked") return already("already_revoked");
    if (number(core, "lease_expires_at") > this.now) return already("not_yet_expired");
    this.#markExpired(execution);
    return done("marked_expired");
  }

  revoke(execution: Execution, expectedLeaseId: string, reason: string): Reply {
    const { core } = execution;
    if (text(core, "lifecycle_phase") !== "active") return this.#notActive(execution, 4);
    const ownership = text(core, "ownership_state");
    if (ownership === "lease_revoked") return already("already_revoked");
    if (ownership === "lease_expired_reclaimable") return already("already_expired");
    const leaseId = text(core, "current_lease_id");
    if (expectedLeaseId !== "" && expectedLeaseId !== leaseId) return refused("stale_lease", leaseId);
    Object.assign(core, {
      ownership_state: "lease_revoked",
      blocking_reason: "waiting_for_worker",
      blocking_detail: `lease revoked: ${reason}`,
      attempt_state: "attempt_interrupted",
      lease_revoked_at: String(this.now),
      lease_revoke_reason: reason,
      last_mutation_at: String(this.now),
    });
    execution.lease = undefined;
    this.#remove("lease_expiry", execution);
    this.#remove(workerIndex(text(core, "current_worker_instance_id")), execution);
    execution.history.push(`revoked ${reason}`);
    return done("revoked", leaseId, text(core, "current_lease_epoch"));
  }

  grantReclaim(execution: Execution, worker: Worker): Reply {
    const { core } = execution;
    if (!isReclaimable(core)) {
      return refused(
        "execution_not_reclaimable",
        text(core, "lifecycle_phase"),
        text(core, "ownership_state"),
      );
    }
    if (execution.grant !== undefined) return refused("grant_already_exists");
    execution.grant = grantOf(worker);
    return done(execution.id);
  }

  reclaim(
    execution: Execution,
    worker: Worker,
    terms: { leaseId: string; attemptId: string; ttlMs: number; limit: number | undefined },
  ): Reply {
    const { core } = execution;
    if (!isReclaimable(core)) {
      return refused(
        "execution_not_reclaimable",
        text(core, "lifecycle_phase"),
        text(core, "ownership_state"),
      );
    }
    const limit = terms.limit ?? DEFAULT_RECLAIM_LIMIT;
    if (number(core, "lease_reclaim_count") >= limit) {
      this.#endAttempt(execution, "ended_failure", "max_reclaims_exceeded");
      this.#dropLease(execution);
      this.#end(execution, "failed", "attempt_terminal", { failure_reason: "max_reclaims_exceeded" });
      return refused("max_retries_exhausted", String(limit));
    }
    if (!isGrantedTo(execution, worker, "worker")) return refused("invalid_claim_grant");
    const reason = `lease_${text(core, "ownership_state")}`;
    const old = execution.attempts[number(core, "current_attempt_index")];
    if (old !== undefined)
      Object.assign(old, { attempt_state: "interrupted_reclaimed", failure_reason: reason });
    const timeout = this.#index("attempt_timeout")[execution.id];
    const startedAt = Number(old?.started_at);
    // The timeout starts again: as long after now as it was after the start of the old attempt.
    if (timeout !== undefined && timeout > startedAt) {
      this.#add("attempt_timeout", execution, this.now + timeout - startedAt);
    }
    this.#remove(workerIndex(text(core, "current_worker_instance_id")), execution);
    core.lease_reclaim_count = String(number(core, "lease_reclaim_count") + 1);
    this.#startAttempt(execution, worker, terms, "reclaim", this.now + Math.floor((terms.ttlMs * 2) / 3));
    clear(core, "lease_expired_at", "lease_revoked_at", "lease_revoke_reason");
    execution.history.push("reclaimed");
    return done(
      terms.leaseId,
      text(core, "current_lease_epoch"),
      String(this.now + terms.ttlMs),
      terms.attemptId,
      text(core, "current_attempt_index"),
      "reclaim",
    );
  }

  expire(execution: Execution, reason: string, score: number | undefined): Reply {
    const { core } = execution;
    const recorded = this.#index(reason)[execution.id];
    if (score !== undefined && (recorded !== score || recorded > this.now)) return done("not_due");
    const phase = text(core, "lifecycle_phase");
    if (phase === "terminal") {
      for (const name of TIMEOUTS) this.#remove(name, execution);
      return done("already_terminal");
    }
    if (phase === "active") {
      this.#endAttempt(execution, "ended_failure", reason);
      this.#dropLease(execution);
      // Whatever the lease's state is, an execution that was active has had one.
      if (execution.history.length > 0) execution.history.push(`released expired:${reason}`);
    } else this.#leaveRunnableIndex(execution);
    const hasAttempt = text(core, "current_attempt_index") !== "";
    this.#end(execution, "expired", hasAttempt ? "attempt_terminal" : text(core, "attempt_state"), {
      failure_reason: reason,
    });
    return done("expired", phase);
  }

  progress({ core }: Execution, lease: LeaseRef, percentage: number, message: string): Reply {
    if (text(core, "lifecycle_phase") !== "active") {
      return refused(
        "execution_not_active",
        text(core, "terminal_outcome"),
        text(core, "current_lease_epoch"),
      );
    }
    if (text(core, "ownership_state") === "lease_revoked") return refused("lease_revoked");
    if (this.#hasExpired(core)) return refused("lease_expired");
    const isCurrent =
      text(core, "current_lease_id") === lease.leaseId && text(core, "current_lease_epoch") === lease.epoch;
    if (!isCurrent) return refused("stale_lease");
    core.progress_pct = String(percentage);
    core.progress_updated_at = String(this.now);
    core.last_mutation_at = String(this.now);
    if (message !== "") core.progress_message = message;
    return done();
  }

  changePriority(execution: Execution, priority: number): Reply {
    const { core } = execution;
    if (text(core, "lifecycle_phase") !== "runnable" || text(core, "eligibility_state") !== "eligible_now") {
      return refused(
        "execution_not_eligible",
        text(core, "lifecycle_phase"),
        text(core, "eligibility_state"),
      );
    }
    const before = text(core, "priority");
    core.priority = String(Math.min(9_000, Math.max(0, priority)));
    core.last_mutation_at = String(this.now);
    this.#add("eligible", execution, eligibleScore(core));
    return done(before, core.priority);
  }

  promote(execution: Execution, nowMs: number): Reply {
    const { core } = execution;
    const delayUntil = text(core, "delay_until");
    if (text(core, "lifecycle_phase") !== "runnable") {
      this.#remove("delayed", execution);
      return done("not_runnable_cleaned");
    }
    if (text(core, "eligibility_state") !== "not_eligible_until_time") {
      this.#remove("delayed", execution);
      const isBlocked = text(core, "eligibility_state") === "blocked_by_dependencies";
      // The delay is over by then: it must not hold the execution back once its dependencies are satisfied.
      if (isBlocked && delayUntil !== "" && Number(delayUntil) <= nowMs) {
        core.delay_until = "";
        core.blocking_detail = "";
        core.last_mutation_at = String(nowMs);
      }
      return done("not_delayed_cleaned");
    }
    if (Number(delayUntil) > nowMs) return done("not_yet_due");
    this.#remove("delayed", execution);
    this.#move(
      execution,
      "eligible",
      "waiting_for_worker",
      text(core, "attempt_state"),
      { delay_until: "" },
      nowMs,
    );
    this.#add("eligible", execution, eligibleScore(core));
    return done("promoted");
  }

  cancel(execution: Execution, reason: string, source: string, lease: LeaseRef | undefined): Reply {
    const { core } = execution;
    const phase = text(core, "lifecycle_phase");
    if (phase === "terminal") return this.#notActive(execution, 2);
    if (phase === "active" && source !== "operator_override") {
      if (text(core, "ownership_state") === "lease_revoked") return refused("lease_revoked");
      const isOther =
        lease !== undefined &&
        lease.leaseId !== "" &&
        (text(core, "current_lease_id") !== lease.leaseId ||
          text(core, "current_lease_epoch") !== lease.epoch);
      if (isOther) return refused("stale_lease");
    }
    if (phase === "active") {
      this.#endAttempt(execution, "ended_cancelled", `cancelled: ${reason}`);
      this.#releaseLease(execution, "cancelled");
    } else this.#leaveRunnableIndex(execution);
    const hasAttempt = text(core, "current_attempt_index") !== "";
    this.#end(
      execution,
      "cancelled",
      hasAttempt ? "attempt_terminal" : "none",
      { cancellation_reason: reason, cancelled_by: source },
      source !== "flow_cascade",
    );
    return done("cancelled", phase);
  }

  cancelFlow(reason: string, policy: string): Reply {
    const { flow, executions } = this.world;
    if (flow.state !== "open") return refused("flow_already_terminal");
    flow.state = "cancelled";
    flow.reason = reason;
    const members = executions.map(({ id }) => id).sort();
    if (policy === "cancel_all") {
      this.world.pendingCancels = members;
      this.world.backlog = this.now + GRACE_MS;
    }
    return done(policy, ...members);
  }

  ackCancel(execution: Execution): Reply {
    this.world.pendingCancels = this.world.pendingCancels.filter((id) => id !== execution.id);
    if (this.world.pendingCancels.length === 0) this.world.backlog = undefined;
    return done();
  }

  replay(execution: Execution): Reply {
    const { core, deps, meta, group } = execution;
    if (text(core, "lifecycle_phase") !== "terminal") return refused("execution_not_terminal");
    const replays = number(core, "replay_count");
    if (replays >= MAX_REPLAYS) return refused("max_replays_exhausted", String(replays));
    const common = { replay_count: String(replays + 1), completed_at: "", skip_root: "", skip_reason: "" };
    if (text(core, "terminal_outcome") !== "skipped") {
      this.#remove("terminal", execution);
      this.#move(execution, "eligible", "waiting_for_worker", "pending_replay_attempt", {
        ...common,
        delay_until: "",
      });
      this.#add("eligible", execution, eligibleScore(core));
      execution.history.push("replay_initiated");
      return done("0");
    }
    const impossible = Object.values(deps).filter(({ state }) => state === "impossible");
    let isSatisfied = false;
    if (group !== undefined && isQuorum(group)) {
      const failures = group.failed + group.skipped - impossible.length;
      if (group.succeeded < group.k && failures > group.n - group.k)
        return refused("invalid_input", "edges", "quorum");
      isSatisfied = group.succeeded >= group.k;
    }
    for (const dep of impossible) dep.state = "unsatisfied";
    const open = Object.values(deps).filter(({ state }) => state === "unsatisfied").length;
    meta.unsatisfied = open;
    meta.impossible = Math.max(0, meta.impossible - impossible.length);
    if (group !== undefined) {
      const fromFailed = Math.min(group.failed, impossible.length);
      group.failed -= fromFailed;
      group.skipped = Math.max(0, group.skipped - (impossible.length - fromFailed));
      group.state = isSatisfied ? "satisfied" : "pending";
      group.pending = false;
      group.siblings = [];
      this.world.pendingGroups = this.world.pendingGroups.filter(
        (entry) => entry !== this.#groupEntry(execution),
      );
    }
    this.#remove("terminal", execution);
    if (isSatisfied) {
      const isDelayed = number(core, "delay_until") > this.now;
      this.#schedule(
        execution,
        "pending_replay_attempt",
        this.now,
        isDelayed ? common : { ...common, delay_until: "" },
      );
    } else {
      this.#move(execution, "blocked", "waiting_for_children", "pending_replay_attempt", common);
      this.#add("blockedDependencies", execution, number(core, "created_at"));
    }
    execution.history.push("replay_initiated");
    return done(String(open));
  }

  /** Applies an edge that was just staged. */
  apply(execution: Execution, edge: string, upstream: Execution, nowMs: number): Reply {
    const { core, deps, meta } = execution;
    deps[edge] = { state: "unsatisfied", upstream: upstream.id };
    meta.unsatisfied += 1;
    let blocks = true;
    if (this.world.edition === 14) {
      execution.group ??= newGroup("all_of", "", 0);
      execution.group.n += 1;
      // A decided group never releases the child again, so that a later edge must not block it.
      blocks = !(isQuorum(execution.group) && execution.group.state === "satisfied");
    }
    if (blocks && text(core, "lifecycle_phase") === "runnable") {
      this.#leaveRunnableIndex(execution);
      this.#move(execution, "blocked", "waiting_for_children", text(core, "attempt_state"), {}, nowMs);
      this.#add("blockedDependencies", execution, number(core, "created_at"));
    }
    return done(String(meta.unsatisfied));
  }

  resolve(execution: Execution, edge: string, outcome: string, nowMs: number): Reply {
    const { deps, meta, group, core } = execution;
    const dep = deps[edge];
    if (dep === undefined) return refused("invalid_dependency");
    if (dep.state !== "unsatisfied") return done("already_resolved");
    const succeeded = outcome === "success";
    dep.state = succeeded ? "satisfied" : "impossible";
    if (group !== undefined && isQuorum(group)) {
      return this.#resolveInGroup(execution, group, dep.upstream, outcome, nowMs);
    }
    meta.unsatisfied -= 1;
    if (!succeeded) meta.impossible += 1;
    if (group !== undefined) {
      if (succeeded) {
        group.succeeded += 1;
        if (meta.unsatisfied === 0 && meta.impossible === 0) group.state = "satisfied";
      } else {
        group.failed += 1;
        group.state = "impossible";
      }
    }
    if (!succeeded) return done("impossible", this.#skip(execution, nowMs, dep.upstream, outcome));
    if (meta.unsatisfied === 0 && text(core, "lifecycle_phase") !== "terminal")
      this.#release(execution, nowMs);
    return done("satisfied", "");
  }

  drainGroup(execution: Execution): Reply {
    const { group } = execution;
    const entry = this.#groupEntry(execution);
    const wasPending = this.world.pendingGroups.includes(entry);
    this.world.pendingGroups = this.world.pendingGroups.filter((one) => one !== entry);
    if (group !== undefined) Object.assign(group, { pending: false, siblings: [] });
    if (!wasPending) return done("already_drained", "");
    return done(group === undefined ? "drained_sans_group" : "drained", "");
  }

  reconcileGroup(execution: Execution): Reply {
    const { group } = execution;
    const entry = this.#groupEntry(execution);
    if (!this.world.pendingGroups.includes(entry) || group === undefined) return done("no_op", "not_in_set");
    const isRunning = group.siblings.some((sibling) => {
      const core = this.world.executions.find(({ id }) => id === sibling)?.core ?? {};
      return text(core, "lifecycle_phase") !== "terminal";
    });
    if (isRunning) return done("no_op", "siblings_running");
    this.world.pendingGroups = this.world.pendingGroups.filter((one) => one !== entry);
    Object.assign(group, { pending: false, siblings: [] });
    return done("completed_drain", "");
  }

  #resolveInGroup(
    execution: Execution,
    group: Group,
    upstream: string,
    outcome: string,
    nowMs: number,
  ): Reply {
    if (outcome === "success") group.succeeded += 1;
    else if (outcome === "skipped") group.skipped += 1;
    else group.failed += 1;
    if (group.state !== "pending") return done("already_fired", "");
    const isImpossible = group.failed + group.skipped > group.n - group.k;
    if (group.succeeded < group.k && !isImpossible) return done("pending", "");
    group.state = group.succeeded >= group.k ? "satisfied" : "impossible";
    if (group.onSatisfied === "cancel_remaining") {
      group.pending = true;
      group.siblings = Object.values(execution.deps)
        .map(({ upstream }) => upstream)
        .filter((upstream) => {
          const core = this.world.executions.find(({ id }) => id === upstream)?.core ?? {};
          return text(core, "lifecycle_phase") !== "terminal";
        })
        .sort();
      this.world.pendingGroups = [...this.world.pendingGroups, this.#groupEntry(execution)].sort();
    }
    if (group.state === "impossible") {
      return done("impossible", this.#skip(execution, nowMs, upstream, outcome));
    }
    this.#release(execution, nowMs);
    return done("satisfied", "");
  }

  /** Schedules a child that waits for its dependencies. */
  #release(execution: Execution, nowMs: number): void {
    const { core } = execution;
    if (text(core, "eligibility_state") !== "blocked_by_dependencies") return;
    this.#remove("blockedDependencies", execution);
    const attemptState = text(core, "attempt_state");
    this.#schedule(execution, attemptState === "none" ? "pending_first_attempt" : attemptState, nowMs, {});
  }

  /** Eligible, or delayed if its time has not come. */
  #schedule(execution: Execution, attemptState: string, at: number, more: Fields): void {
    const { core } = execution;
    if (number(core, "delay_until") > this.now) {
      const reason =
        attemptState === "pending_retry_attempt" ? "waiting_for_retry_backoff" : "waiting_for_delay";
      this.#move(execution, "delayed", reason, attemptState, more, at);
      this.#add("delayed", execution, number(core, "delay_until"));
    } else {
      this.#move(execution, "eligible", "waiting_for_worker", attemptState, more, at);
      this.#add("eligible", execution, eligibleScore(core));
    }
  }

  #skip(execution: Execution, nowMs: number, upstream: string, outcome: string): string {
    const { core } = execution;
    const phase = text(core, "lifecycle_phase");
    if (phase === "terminal") return "";
    if (phase === "active") {
      this.#endAttempt(execution, "ended_cancelled", "dependency_impossible");
      this.#releaseLease(execution, "dependency_impossible");
    } else this.#leaveRunnableIndex(execution);
    const root = this.#skipRoot(upstream, outcome);
    this.#end(execution, "skipped", phase === "active" ? "attempt_terminal" : "none", root, true, nowMs);
    return "child_skipped";
  }

  /** The fields that name the execution whose end skips a child. All reasons of the sequences are short. */
  #skipRoot(upstream: string, outcome: string): Fields {
    const core = this.world.executions.find(({ id }) => id === upstream)?.core ?? {};
    const recorded = text(core, "terminal_outcome");
    const ending = recorded === "" || recorded === "none" ? outcome : recorded;
    if (ending === "skipped") {
      if (text(core, "skip_root") === "") return {};
      return { skip_root: text(core, "skip_root"), skip_reason: text(core, "skip_reason") };
    }
    const why = text(core, ending === "cancelled" ? "cancellation_reason" : "failure_reason");
    return { skip_root: upstream, skip_reason: why === "" ? ending : `${ending}: ${why}` };
  }

  #startAttempt(
    execution: Execution,
    { workerId, instanceId }: Worker,
    { leaseId, attemptId, ttlMs }: { leaseId: string; attemptId: string; ttlMs: number },
    type: string,
    renewBy: number,
  ): void {
    const { core } = execution;
    const now = String(this.now);
    const index = number(core, "total_attempt_count");
    const epoch = String(number(core, "current_lease_epoch") + 1);
    const expiresAt = this.now + ttlMs;
    execution.grant = undefined;
    execution.attempts[index] = { attempt_state: "started", attempt_type: type, started_at: now };
    execution.lease = {
      lease_id: leaseId,
      lease_epoch: epoch,
      attempt_id: attemptId,
      worker_id: workerId,
      worker_instance_id: instanceId,
      acquired_at: now,
      expires_at: String(expiresAt),
      last_renewed_at: now,
      renewal_deadline: String(renewBy),
    };
    this.#write(core, ["active", "leased", "not_applicable", "none", "none", "running_attempt", "active"], {
      current_attempt_index: String(index),
      current_attempt_id: attemptId,
      total_attempt_count: String(index + 1),
      current_lease_id: leaseId,
      current_lease_epoch: epoch,
      current_worker_id: workerId,
      current_worker_instance_id: instanceId,
      lease_acquired_at: now,
      lease_expires_at: String(expiresAt),
      lease_last_renewed_at: now,
      lease_renewal_deadline: String(renewBy),
    });
    this.#add("active", execution, expiresAt);
    this.#add("lease_expiry", execution, expiresAt);
    this.#add(workerIndex(instanceId), execution, 1);
  }

  #refuseUnlessOwned({ core }: Execution, lease: LeaseRef): Reply | undefined {
    if (text(core, "lifecycle_phase") !== "active") {
      return refused(
        "execution_not_active",
        text(core, "terminal_outcome"),
        text(core, "current_lease_epoch"),
      );
    }
    if (text(core, "ownership_state") === "lease_revoked") return refused("lease_revoked");
    if (this.#hasExpired(core)) return refused("lease_expired");
    return isCurrentLease(core, lease) ? undefined : refused("stale_lease");
  }

  #hasExpired(core: Fields): boolean {
    return (
      text(core, "ownership_state") === "lease_expired_reclaimable" ||
      number(core, "lease_expires_at") <= this.now
    );
  }

  #markExpired(execution: Execution): void {
    const { core } = execution;
    if (text(core, "ownership_state") === "lease_expired_reclaimable") return;
    Object.assign(core, {
      ownership_state: "lease_expired_reclaimable",
      blocking_reason: "waiting_for_worker",
      blocking_detail: "lease expired, awaiting reclaim",
      attempt_state: "attempt_interrupted",
      public_state: "active",
      lease_expired_at: String(this.now),
      last_mutation_at: String(this.now),
    });
    execution.history.push("expired");
  }

  #notActive({ core }: Execution, details: 2 | 4): Reply {
    const all = ["terminal_outcome", "current_lease_epoch", "lifecycle_phase", "current_attempt_id"];
    return refused("execution_not_active", ...all.slice(0, details).map((name) => text(core, name)));
  }

  #endAttempt({ core, attempts }: Execution, state: string, reason?: string): void {
    const attempt = attempts[number(core, "current_attempt_index")];
    if (attempt === undefined) return;
    attempt.attempt_state = state;
    if (reason !== undefined) attempt.failure_reason = reason;
  }

  #releaseLease(execution: Execution, reason: string): void {
    this.#dropLease(execution);
    if (execution.history.length > 0) execution.history.push(`released ${reason}`);
  }

  #dropLease(execution: Execution): void {
    execution.lease = undefined;
    const worker = workerIndex(text(execution.core, "current_worker_instance_id"));
    for (const name of ["lease_expiry", "active", "attempt_timeout", worker]) this.#remove(name, execution);
  }

  #end(
    execution: Execution,
    outcome: string,
    attemptState: string,
    more: Fields,
    isPublished = true,
    at = this.now,
  ): void {
    const publicState = outcome === "success" ? "completed" : outcome;
    const vector = [
      "terminal",
      "unowned",
      "not_applicable",
      "none",
      outcome,
      attemptState,
      publicState,
    ] as const;
    this.#write(execution.core, vector, { completed_at: String(at), ...more }, at);
    clear(
      execution.core,
      "current_lease_id",
      "current_worker_id",
      "current_worker_instance_id",
      "lease_acquired_at",
      "lease_expires_at",
      "lease_last_renewed_at",
      "lease_renewal_deadline",
    );
    for (const name of TIMEOUTS) this.#remove(name, execution);
    this.#add("terminal", execution, at);
    if (isPublished) this.world.published.push(`${execution.id} ${outcome}`);
  }

  /** Makes an execution runnable in one of three states, without its index entries. */
  #move(
    { core }: Execution,
    state: "eligible" | "delayed" | "blocked",
    reason: string,
    attemptState: string,
    more: Fields,
    at = this.now,
  ): void {
    const [eligibility, publicState] = {
      eligible: ["eligible_now", "waiting"],
      delayed: ["not_eligible_until_time", "delayed"],
      blocked: ["blocked_by_dependencies", "waiting_children"],
    }[state];
    this.#write(
      core,
      ["runnable", "unowned", eligibility ?? "", reason, "none", attemptState, publicState ?? ""],
      more,
      at,
    );
    // A blocked execution says so in its detail if its delay holds again later.
    const delayUntil = text(core, "delay_until");
    if (state === "blocked" && delayUntil !== "") core.blocking_detail = `delayed until ${delayUntil}`;
    if (state === "delayed" && reason === "waiting_for_retry_backoff") {
      clear(
        core,
        "current_lease_id",
        "current_worker_id",
        "current_worker_instance_id",
        "lease_acquired_at",
        "lease_expires_at",
        "lease_last_renewed_at",
        "lease_renewal_deadline",
      );
    }
  }

  #write(
    core: Fields,
    [phase, ownership, eligibility, reason, outcome, attemptState, publicState]: readonly [
      string,
      string,
      string,
      string,
      string,
      string,
      string,
    ],
    more: Fields,
    at = this.now,
  ): void {
    Object.assign(
      core,
      {
        lifecycle_phase: phase,
        ownership_state: ownership,
        eligibility_state: eligibility,
        blocking_reason: reason,
        blocking_detail: "",
        terminal_outcome: outcome,
        attempt_state: attemptState,
        public_state: publicState,
        last_transition_at: String(at),
        last_mutation_at: String(at),
      },
      more,
    );
  }

  #leaveRunnableIndex(execution: Execution): void {
    this.#remove(RUNNABLE_INDEXES[text(execution.core, "eligibility_state")] ?? "", execution);
  }

  #groupEntry({ id }: Execution): string {
    return `${this.world.flowId}|${id}`;
  }

  #index(name: string): Index {
    this.world.indexes[name] ??= {};
    return this.world.indexes[name];
  }

  #add(name: string, { id }: Execution, score: number): void {
    this.#index(name)[id] = score;
  }

  #remove(name: string, { id }: Execution): void {
    delete this.#index(name)[id];
  }
}

function newGroup(policy: string, onSatisfied: string, k: number): Group {
  const counts = { n: 0, succeeded: 0, failed: 0, skipped: 0 };
  return { policy, onSatisfied, k, ...counts, state: "pending", pending: false, siblings: [] };
}

function isQuorum({ policy }: Group): boolean {
  return policy === "any_of" || policy === "quorum";
}

function isCurrentLease(core: Fields, { leaseId, epoch, attemptId }: LeaseRef): boolean {
  return (
    text(core, "current_lease_id") === leaseId &&
    text(core, "current_lease_epoch") === epoch &&
    text(core, "current_attempt_id") === attemptId
  );
}

function isReclaimable(core: Fields): boolean {
  const lost = ["lease_expired_reclaimable", "lease_revoked"].includes(text(core, "ownership_state"));
  return text(core, "lifecycle_phase") === "active" && lost;
}

/** The grant of a claim names the worker's instance; of the grant of a reclaim, only the worker is compared. */
function isGrantedTo({ grant }: Execution, worker: Worker, by: "worker" | "instance"): boolean {
  if (grant?.worker_id !== worker.workerId) return false;
  return by === "worker" || grant.worker_instance_id === worker.instanceId;
}

function grantOf({ workerId, instanceId }: Worker): Fields {
  return { worker_id: workerId, worker_instance_id: instanceId };
}

function eligibleScore(core: Fields): number {
  return number(core, "created_at") - number(core, "priority") * 1e12;
}

export function workerIndex(instanceId: string): string {
  return `worker:${instanceId}`;
}

function clear(core: Fields, ...names: string[]): void {
  for (const name of names) core[name] = "";
}

/** The steps of a random sequence: each is a call of the library, and the same call of the model. */

import fc from "fast-check";
import { command, type ValkeyCommand } from "#shared/contract/command.ts";
import { cancelFlow, replayExecution } from "#shared/contract/graph.ts";
import {
  cancelExecution,
  claimExecution,
  completeExecution,
  failExecution,
  issueClaimGrant,
  type Lease,
  promoteDelayed,
  type Target,
} from "#shared/contract/ownership.ts";
import type { TerminalOutcome } from "#shared/contract/record.ts";
import type { Reply } from "#shared/contract/reply.ts";
import {
  ackCancelMember,
  changePriority,
  drainSiblingCancelGroup,
  type ExpiryReason,
  expireExecution,
  issueReclaimGrant,
  markLeaseExpiredIfDue,
  reclaimExecution,
  reconcileSiblingCancelGroup,
  renewLease,
  revokeLease,
  updateProgress,
} from "#shared/contract/upkeep.ts";
import {
  done,
  type Execution,
  type LeaseRef,
  type Model,
  type Worker,
  type World,
} from "#test/differential/model.ts";
import type { Bench } from "#test/differential/observe.ts";
import { attempt } from "#test/support/flow-fixture.ts";

/** A step as fast-check generates it: the numbers select among what exists when the step runs. */
export interface Step {
  readonly name: StepName;
  readonly who: number;
  readonly a: number;
  readonly b: number;
}

/** A step that is about to run. */
export interface Call {
  readonly commands: readonly ValkeyCommand[];
  /** Without a reply: the commands change the state directly, as time would. */
  readonly hasReply: boolean;
  run(model: Model): Reply;
}

export const WORKERS: readonly Worker[] = [
  { workerId: "worker-a", instanceId: "a-1" },
  { workerId: "worker-b", instanceId: "b-1" },
];
const [FIRST, SECOND] = WORKERS as readonly [Worker, Worker];

/** So long that nothing runs out by itself. */
const LONG_MS = 1_000_000_000;
const PAST = 1_000;
const FUTURE = 4_000_000_000_000;
const OUTCOMES: readonly TerminalOutcome[] = [
  "success",
  "success",
  "failed",
  "skipped",
  "cancelled",
  "expired",
];
const SOURCES = ["operator_override", "lease_holder", "flow_cascade"];
const REASONS: readonly ExpiryReason[] = ["attempt_timeout", "execution_deadline"];

type Build = (bench: Bench, world: World, step: Step) => Promise<Call | undefined> | Call | undefined;

type Suitable = (execution: Execution, world: World) => boolean;

const isIn =
  (field: string, ...values: string[]): Suitable =>
  ({ core }) =>
    values.includes(core[field] ?? "");
const isEligible = isIn("eligibility_state", "eligible_now");
const isLeased = isIn("ownership_state", "leased");
const isLost = isIn("ownership_state", "lease_expired_reclaimable", "lease_revoked");
const isEnded = isIn("lifecycle_phase", "terminal");
const hasTimeout: Suitable = ({ id }, { indexes }) =>
  REASONS.some((reason) => indexes[reason]?.[id] !== undefined);
const isPending: Suitable = ({ group }) => group?.pending === true;

/** For which executions a step does more than being refused. */
const SUITABLE: Partial<Record<StepName, Suitable>> = {
  grant: (execution, world) => isEligible(execution, world) && execution.grant === undefined,
  claim: (execution, world) => isEligible(execution, world) && execution.grant !== undefined,
  complete: isLeased,
  fail: isLeased,
  renew: isLeased,
  progress: isLeased,
  runOutOfTime: isLeased,
  mark: ({ core }) => core.ownership_state === "leased" && core.lease_expires_at === String(PAST),
  revoke: isLeased,
  grantReclaim: (execution, world) => isLost(execution, world) && execution.grant === undefined,
  reclaim: (execution, world) => isLost(execution, world) && execution.grant !== undefined,
  expire: hasTimeout,
  fallDue: hasTimeout,
  priority: isEligible,
  promote: isIn("public_state", "delayed"),
  cancel: (execution, world) => !isEnded(execution, world),
  replay: isEnded,
  loseGrant: ({ grant }) => grant !== undefined,
  drainGroup: isPending,
  reconcileGroup: isPending,
};

/** Everything that a builder needs of the execution that a step selects. */
interface Selected {
  readonly at: number;
  readonly target: Target;
  readonly execution: Execution;
  /** In a model, the world is a copy. */
  readonly in: (model: Model) => Execution;
}

function select({ fixture, executions }: Bench, world: World, step: Step): Selected {
  const isSuitable = SUITABLE[step.name];
  const suitable = [...world.executions.keys()].filter((at) => {
    const execution = world.executions[at];
    return execution !== undefined && isSuitable?.(execution, world) === true;
  });
  const choice = step.who % 4 === 0 ? undefined : suitable[step.who % Math.max(1, suitable.length)];
  const at = choice ?? step.who % executions.length;
  const [keys, execution] = [executions[at], world.executions[at]];
  if (keys === undefined || execution === undefined) throw new RangeError("no such execution");
  const pick = ({ world: copy }: Model): Execution => copy.executions[at] ?? execution;
  return { at, target: fixture.target(keys), execution, in: pick };
}

const call = (one: ValkeyCommand, run: Call["run"]): Call => ({ commands: [one], hasReply: true, run });
const direct = (commands: readonly ValkeyCommand[], run: (model: Model) => void): Call => ({
  commands,
  hasReply: false,
  run: (model) => {
    run(model);
    return done();
  },
});

/** The lease that a caller names: the current one most of the time, one with another epoch, none, or an incomplete one. */
function leaseOf({ core }: Execution, choice: number): LeaseRef {
  const lease = {
    leaseId: core.current_lease_id ?? "no-lease",
    epoch: core.current_lease_epoch ?? "0",
    attemptId: core.current_attempt_id ?? "no-attempt",
    attemptIndex: Number(core.current_attempt_index ?? "0"),
  };
  if (choice === 0) return { ...lease, epoch: String(Number(lease.epoch) + 1) };
  if (choice === 1) return { ...lease, leaseId: "", epoch: "", attemptId: "" };
  if (choice === 2) return { ...lease, epoch: "" };
  return lease;
}

function asLease({ attemptIndex, ...lease }: LeaseRef): Lease {
  return { ...lease, attemptIndex: attempt(attemptIndex) };
}

function holderOf({ core }: Execution): Worker {
  return core.current_worker_instance_id === SECOND.instanceId ? SECOND : FIRST;
}

const workerOf = ({ b }: Step): Worker => (b % 2 === 0 ? FIRST : SECOND);
/** Mostly the worker that holds the grant. */
const claimerOf = ({ grant }: Execution, { b }: Step): Worker =>
  WORKERS.find(({ instanceId }) => b !== 0 && instanceId === grant?.worker_instance_id) ?? SECOND;
const currentAttempt = ({ core }: Execution) => attempt(Number(core.current_attempt_index ?? "0"));
/** Ids that no earlier attempt of the execution has. */
const idsOf = ({ core }: Execution) => {
  const number = Number(core.total_attempt_count ?? "0");
  return { leaseId: `lease-${number}`, attemptId: `attempt-${number}` };
};

const BUILDERS = {
  grant: (bench, world, step) => {
    const { target, in: pick } = select(bench, world, step);
    return call(issueClaimGrant(target, workerOf(step), LONG_MS), (model) =>
      model.grant(pick(model), workerOf(step)),
    );
  },
  claim: (bench, world, step) => {
    const { target, execution, in: pick } = select(bench, world, step);
    const terms = {
      ...idsOf(execution),
      ttlMs: LONG_MS,
      renewBeforeMs: 1_000,
      timeoutMs: step.a % 2 === 0 ? 0 : LONG_MS,
    };
    const { ttlMs, timeoutMs, ...others } = terms;
    const request = {
      ...others,
      leaseTtlMs: ttlMs,
      ...(timeoutMs === 0 ? {} : { attemptTimeoutMs: timeoutMs }),
    };
    const worker = claimerOf(execution, step);
    return call(claimExecution(target, worker, request), (model) => model.claim(pick(model), worker, terms));
  },
  complete: (bench, world, step) => {
    const { target, execution, in: pick } = select(bench, world, step);
    const lease = leaseOf(execution, step.a);
    return call(completeExecution(target, holderOf(execution), asLease(lease), ""), (model) =>
      model.complete(pick(model), lease),
    );
  },
  fail: (bench, world, step) => {
    const { target, execution, in: pick } = select(bench, world, step);
    const lease = leaseOf(execution, step.a);
    const max = step.b % 3;
    const failure = {
      reason: "it broke",
      category: "test",
      retryPolicyJson: JSON.stringify({ max_retries: max, backoff: { type: "fixed", delay_ms: LONG_MS } }),
    };
    return call(failExecution(target, holderOf(execution), asLease(lease), failure), (model) =>
      model.fail(pick(model), lease, failure.reason, { max, delayMs: LONG_MS }),
    );
  },
  renew: (bench, world, step) => {
    const { target, execution, in: pick } = select(bench, world, step);
    const lease = leaseOf(execution, step.a);
    const ttlMs = LONG_MS + step.b;
    return call(renewLease(target, asLease(lease), { ttlMs, graceMs: LONG_MS }), (model) =>
      model.renew(pick(model), lease, ttlMs),
    );
  },
  mark: (bench, world, step) => {
    const { target, in: pick } = select(bench, world, step);
    return call(markLeaseExpiredIfDue(target), (model) => model.markExpiredIfDue(pick(model)));
  },
  revoke: (bench, world, step) => {
    const { target, execution, in: pick } = select(bench, world, step);
    const leaseId = ["", execution.core.current_lease_id ?? "", "another"][step.a % 3] ?? "";
    return call(revokeLease(target, holderOf(execution).instanceId, leaseId, "a test"), (model) =>
      model.revoke(pick(model), leaseId, "a test"),
    );
  },
  grantReclaim: (bench, world, step) => {
    const { target, in: pick } = select(bench, world, step);
    return call(issueReclaimGrant(target, workerOf(step), LONG_MS), (model) =>
      model.grantReclaim(pick(model), workerOf(step)),
    );
  },
  reclaim: (bench, world, step) => {
    const { target, execution, in: pick } = select(bench, world, step);
    const limit = [undefined, 1, 2][step.a % 3];
    const terms = { ...idsOf(execution), ttlMs: LONG_MS, limit };
    const request = {
      ...idsOf(execution),
      interrupted: currentAttempt(execution),
      leaseTtlMs: LONG_MS,
      ...(limit === undefined ? {} : { limit }),
    };
    const worker = claimerOf(execution, step);
    return call(reclaimExecution(target, worker, request), (model) =>
      model.reclaim(pick(model), worker, terms),
    );
  },
  expire: (bench, world, step) => {
    const { target, execution, in: pick } = select(bench, world, step);
    const reason = REASONS[step.a % 2] ?? "attempt_timeout";
    const recorded = world.indexes[reason]?.[execution.id];
    // Mostly the recorded score, as a scanner reads it; now and then another, or none at all.
    const score = step.b === 0 ? undefined : step.b === 1 ? PAST + 1 : (recorded ?? PAST);
    const full = expireExecution(target, currentAttempt(execution), reason, score ?? 0);
    const args = score === undefined ? full.args.slice(0, -1) : full.args;
    return call({ ...full, args }, (model) => model.expire(pick(model), reason, score));
  },
  progress: (bench, world, step) => {
    const { target, execution, in: pick } = select(bench, world, step);
    const lease = leaseOf(execution, step.a);
    const message = step.b % 2 === 0 ? "" : "half";
    return call(updateProgress(target, asLease(lease), step.b, message), (model) =>
      model.progress(pick(model), lease, step.b, message),
    );
  },
  priority: (bench, world, step) => {
    const { target, in: pick } = select(bench, world, step);
    const priority = [-5, 0, 7, 9_000, 12_000][step.a % 5] ?? 0;
    return call(changePriority(target, priority), (model) => model.changePriority(pick(model), priority));
  },
  promote: (bench, world, step) => {
    const { target, in: pick } = select(bench, world, step);
    const nowMs = step.a % 3 === 0 ? PAST : FUTURE;
    return call(promoteDelayed(target, nowMs), (model) => model.promote(pick(model), nowMs));
  },
  cancel: (bench, world, step) => {
    const { target, execution, in: pick } = select(bench, world, step);
    const source = SOURCES[step.a % SOURCES.length] ?? "";
    const lease = step.b % 2 === 0 ? undefined : leaseOf(execution, step.b);
    const cancellation = {
      reason: "not wanted",
      source,
      ...(lease === undefined ? {} : { lease: asLease(lease) }),
    };
    return call(
      cancelExecution(target, holderOf(execution), currentAttempt(execution), cancellation),
      (model) => model.cancel(pick(model), "not wanted", source, lease),
    );
  },
  cancelFlow: ({ fixture }, _, { a }) => {
    const policy = a % 3 === 0 ? "flow_only" : "cancel_all";
    return call(cancelFlow(fixture.flow, fixture.index, "enough", policy, 0), (model) =>
      model.cancelFlow("enough", policy),
    );
  },
  ackCancel: (bench, world, step) => {
    const { target, in: pick } = select(bench, world, step);
    const { flow, index } = bench.fixture;
    return call(ackCancelMember(flow, index, target.keys.id), (model) => model.ackCancel(pick(model)));
  },
  replay: (bench, world, step) => {
    const { target, at, in: pick } = select(bench, world, step);
    const edges = bench.edges.filter(({ downstream }) => downstream === at).map(({ edge }) => edge.id);
    return call(replayExecution(target.keys, target.index, target.lane, edges, 0), (model) =>
      model.replay(pick(model)),
    );
  },
  resolve: ({ fixture, edges }, world, { a, b }) => {
    const open = edges.filter(
      ({ edge, downstream }) => world.executions[downstream]?.deps[edge.id]?.state === "unsatisfied",
    );
    const among = b === 0 || open.length === 0 ? edges : open;
    const chosen = among[b % Math.max(1, among.length)];
    const child = chosen === undefined ? undefined : world.executions[chosen.downstream];
    if (chosen === undefined || child === undefined) return undefined;
    const outcome = OUTCOMES[a % OUTCOMES.length] ?? "success";
    const nowMs = FUTURE + a;
    return call(fixture.resolution(chosen.edge, outcome, nowMs, currentAttempt(child)), (model) =>
      model.resolve(model.world.executions[chosen.downstream] ?? child, chosen.edge.id, outcome, nowMs),
    );
  },
  /** Stages and applies one more edge, which may block, delay or find its child running. */
  addEdge: async (bench, world, { who, a }) => {
    const { fixture, executions, edges } = bench;
    const downstream = 1 + (who % (executions.length - 1));
    const upstream = a % downstream;
    const [up, down] = [executions[upstream], executions[downstream]];
    const exists = edges.some(({ edge }) => edge.upstream === up?.id && edge.downstream === down?.id);
    if (up === undefined || down === undefined || exists || world.flow.state !== "open") return undefined;
    const edge = fixture.newEdge(up, down);
    const revision = await fixture.stage(edge);
    edges.push({ edge, downstream });
    const nowMs = FUTURE - 1;
    return call(fixture.apply(edge, down, revision, nowMs), (model) => {
      const [from, to] = [model.world.executions[upstream], model.world.executions[downstream]];
      if (from === undefined || to === undefined) throw new RangeError("no such execution");
      return model.apply(to, edge.id, from, nowMs);
    });
  },
  drainGroup: (bench, world, step) => {
    const { target, in: pick } = select(bench, world, step);
    const { flow, index, edition } = bench.fixture;
    if (edition !== 14) return undefined;
    return call(drainSiblingCancelGroup(flow, index, target.keys.id), (model) =>
      model.drainGroup(pick(model)),
    );
  },
  reconcileGroup: (bench, world, step) => {
    const { target, in: pick } = select(bench, world, step);
    const { flow, index, edition } = bench.fixture;
    if (edition !== 14) return undefined;
    return call(reconcileSiblingCancelGroup(flow, index, target.keys.id), (model) =>
      model.reconcileGroup(pick(model)),
    );
  },
  /** The time of a lease is up. */
  runOutOfTime: (bench, world, step) => {
    const { target, execution, in: pick } = select(bench, world, step);
    if (execution.core.ownership_state !== "leased") return undefined;
    const { keys, index } = target;
    return direct(
      [
        command(keys.partition, "hset", keys.core, "lease_expires_at", PAST),
        command(keys.partition, "hset", keys.leaseCurrent, "expires_at", PAST),
        command(keys.partition, "zadd", index.leaseExpiry, PAST, keys.id),
      ],
      (model) => {
        const { core, lease, id } = pick(model);
        core.lease_expires_at = String(PAST);
        if (lease !== undefined) lease.expires_at = String(PAST);
        const expiry = model.world.indexes.lease_expiry;
        if (expiry !== undefined) expiry[id] = PAST;
      },
    );
  },
  /** A timeout or deadline is due. */
  fallDue: (bench, world, step) => {
    const { target, execution, in: pick } = select(bench, world, step);
    const reason = REASONS[step.a % 2] ?? "attempt_timeout";
    const { keys, index } = target;
    const key = reason === "attempt_timeout" ? index.attemptTimeout : index.executionDeadline;
    if (world.indexes[reason]?.[execution.id] === undefined) return undefined;
    return direct([command(keys.partition, "zadd", key, PAST, keys.id)], (model) => {
      const entries = model.world.indexes[reason];
      if (entries !== undefined) entries[pick(model).id] = PAST;
    });
  },
  /** A grant expires, which deletes its key. */
  loseGrant: (bench, world, step) => {
    const { target, in: pick } = select(bench, world, step);
    const { keys } = target;
    return direct([command(keys.partition, "del", keys.claimGrant)], (model) => {
      pick(model).grant = undefined;
    });
  },
} satisfies Record<string, Build>;

export type StepName = keyof typeof BUILDERS;

/** Steps of the ordinary life of an execution are more frequent, so that the others find executions in every state. */
const WEIGHTS: Partial<Record<StepName, number>> = {
  claim: 6,
  reclaim: 6,
  renew: 3,
  complete: 3,
  fail: 3,
  progress: 3,
  revoke: 3,
  resolve: 4,
  addEdge: 1,
  cancel: 1,
  cancelFlow: 1,
  loseGrant: 1,
};

const NAMES = Object.keys(BUILDERS) as StepName[];

/** Numbers below a limit, all equally likely: fc.nat prefers the smallest and the largest. */
function uniform(limit: number): fc.Arbitrary<number> {
  return fc.noBias(fc.nat({ max: limit - 1 }));
}

export const steps: fc.Arbitrary<Step> = fc.record({
  name: fc.oneof(...NAMES.map((name) => ({ weight: WEIGHTS[name] ?? 2, arbitrary: fc.constant(name) }))),
  who: uniform(20),
  a: uniform(12),
  b: uniform(8),
});

/** What happens in place of a step that no execution is ready for, so that one becomes ready. */
const LEADS_TO: Partial<Record<StepName, StepName>> = {
  reclaim: "grantReclaim",
  grantReclaim: "mark",
  mark: "runOutOfTime",
  runOutOfTime: "claim",
  renew: "claim",
  revoke: "claim",
  progress: "claim",
  complete: "claim",
  fail: "claim",
  claim: "grant",
  grant: "promote",
  expire: "fallDue",
  fallDue: "claim",
  promote: "fail",
  drainGroup: "resolve",
  reconcileGroup: "resolve",
};

function readyFor(world: World, step: Step): StepName {
  let name: StepName | undefined = step.name;
  for (let jumps = 0; name !== undefined && jumps < 8; jumps += 1) {
    const isSuitable: Suitable | undefined = SUITABLE[name];
    if (isSuitable === undefined || world.executions.some((one) => isSuitable(one, world))) return name;
    name = LEADS_TO[name];
  }
  return step.name;
}

/** Prepares a step. Undefined if it does not apply to what exists, such as a group in the 11-KEYS edition. */
export async function prepare(
  bench: Bench,
  world: World,
  step: Step,
): Promise<{ readonly name: StepName; readonly call: Call } | undefined> {
  // One call in four is for any execution, and mostly refused.
  const name = step.who % 4 === 0 ? step.name : readyFor(world, step);
  const build: Build = BUILDERS[name];
  const call = await build(bench, world, { ...step, name });
  return call === undefined ? undefined : { name, call };
}

export { NAMES as STEP_NAMES };

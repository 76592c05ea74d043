/** Reads the state of a flow from Valkey in the form of the model, and compares the two. */

import { command, type ValkeyCommand } from "#shared/contract/command.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import type { Edge } from "#shared/contract/submission.ts";
import {
  type Execution,
  type Fields,
  type Group,
  type Index,
  type World,
  workerIndex,
} from "#test/differential/model.ts";
import { attempt, type FlowFixture } from "#test/support/flow-fixture.ts";
import { fieldsOf } from "#test/support/valkey.ts";

/** The fields of a record that are compared. A missing field and an empty one are the same. */
const CORE_FIELDS = [
  "lifecycle_phase",
  "ownership_state",
  "eligibility_state",
  "blocking_reason",
  "blocking_detail",
  "terminal_outcome",
  "attempt_state",
  "public_state",
  "created_at",
  "priority",
  "delay_until",
  "completed_at",
  "started_at",
  "retry_count",
  "replay_count",
  "lease_reclaim_count",
  "total_attempt_count",
  "current_attempt_index",
  "current_attempt_id",
  "current_lease_id",
  "current_lease_epoch",
  "current_worker_id",
  "current_worker_instance_id",
  "lease_acquired_at",
  "lease_expires_at",
  "lease_last_renewed_at",
  "lease_renewal_deadline",
  "lease_expired_at",
  "lease_revoked_at",
  "lease_revoke_reason",
  "failure_reason",
  "pending_retry_reason",
  "pending_previous_attempt_index",
  "cancellation_reason",
  "cancelled_by",
  "skip_root",
  "skip_reason",
  "progress_pct",
  "progress_message",
  "progress_updated_at",
  "last_transition_at",
  "last_mutation_at",
];
const LEASE_FIELDS = [
  "lease_id",
  "lease_epoch",
  "attempt_id",
  "worker_id",
  "worker_instance_id",
  "acquired_at",
  "expires_at",
  "last_renewed_at",
  "renewal_deadline",
];
const GRANT_FIELDS = ["worker_id", "worker_instance_id"];
const ATTEMPT_FIELDS = ["attempt_state", "attempt_type", "failure_reason", "started_at"];
/** More attempts than any sequence makes. */
const MAX_ATTEMPTS = 6;

/** What a sequence works on. Executions and edges are numbered. */
export interface Bench {
  readonly fixture: FlowFixture;
  readonly executions: ExecKeys[];
  readonly edges: { readonly edge: Edge; readonly downstream: number }[];
  readonly instances: readonly string[];
}

/** The commands that read the whole state. `worldOf` takes their replies. */
export function readsOf({ fixture, executions, edges, instances }: Bench): ValkeyCommand[] {
  const { flow, index } = fixture;
  const { partition } = flow;
  const read = (name: string, ...args: (string | number)[]) => command(partition, name, ...args);
  return [
    read("hmget", flow.core, "public_flow_state", "cancel_reason"),
    read("smembers", flow.pendingCancels),
    read("zscore", index.cancelBacklog, flow.id),
    read("smembers", index.pendingCancelGroups),
    ...zsetsOf(fixture).map(([, key]) => read("zrange", key, 0, -1, "WITHSCORES")),
    ...instances.map((instance) => read("smembers", index.workerLeases(instance))),
    ...executions.flatMap((keys) => [
      read("hmget", keys.core, ...CORE_FIELDS),
      read("hmget", keys.leaseCurrent, ...LEASE_FIELDS),
      read("hmget", keys.claimGrant, ...GRANT_FIELDS),
      read("hmget", keys.depsMeta, "unsatisfied_required_count", "impossible_required_count"),
      read("hgetall", flow.edgeGroup(keys.id)),
      read("xrange", keys.leaseHistory, "-", "+"),
      read("smembers", keys.depsUnresolved),
      ...Array.from({ length: MAX_ATTEMPTS }, (_, at) =>
        read("hmget", keys.attempt(attempt(at)), ...ATTEMPT_FIELDS),
      ),
    ]),
    ...edges.map(({ edge, downstream }) => read("hget", executions[downstream]?.dep(edge.id) ?? "", "state")),
  ];
}

function zsetsOf({ index, lane }: FlowFixture): [name: string, key: string][] {
  return [
    ...Object.entries(index.lane(lane)),
    ["lease_expiry", index.leaseExpiry],
    ["attempt_timeout", index.attemptTimeout],
    ["execution_deadline", index.executionDeadline],
    ["suspension_timeout", index.suspensionTimeout],
  ];
}

/** Returns the state that the replies of `readsOf` describe. */
export function worldOf(bench: Bench, replies: readonly unknown[]): World {
  const { fixture, executions, edges, instances } = bench;
  const next = replies.values();
  const take = (): unknown => next.next().value;
  const [state = "", reason = ""] = textsOf(take());
  const pendingCancels = textsOf(take()).sort();
  const backlog = take();
  const pendingGroups = textsOf(take()).sort();
  const indexes: Record<string, Index> = {};
  for (const [name] of zsetsOf(fixture)) indexes[name] = scoresOf(textsOf(take()));
  for (const instance of instances) {
    indexes[workerIndex(instance)] = Object.fromEntries(textsOf(take()).map((id) => [id, 1]));
  }
  const unresolved: string[][] = [];
  const read = executions.map((keys): Execution => {
    const core = fieldsFrom(CORE_FIELDS, take());
    const lease = fieldsFrom(LEASE_FIELDS, take());
    const grant = fieldsFrom(GRANT_FIELDS, take());
    const [unsatisfied, impossible] = textsOf(take());
    const group = groupOf(fieldsOf(take()));
    const history = eventsOf(take());
    unresolved.push(textsOf(take()).sort());
    const attempts = Array.from({ length: MAX_ATTEMPTS }, () => fieldsFrom(ATTEMPT_FIELDS, take()));
    return {
      id: keys.id,
      core,
      lease: orUndefined(lease),
      grant: orUndefined(grant),
      attempts: attempts.filter((fields) => Object.keys(fields).length > 0),
      deps: {},
      meta: { unsatisfied: Number(unsatisfied), impossible: Number(impossible) },
      group,
      history,
    };
  });
  for (const { edge, downstream } of edges) {
    const state = take();
    const execution = read[downstream];
    if (execution === undefined || typeof state !== "string") continue;
    // An edge is open in both places or in none.
    const isListed = unresolved[downstream]?.includes(edge.id) === true;
    const matches = isListed === (state === "unsatisfied");
    execution.deps[edge.id] = {
      state: matches ? state : `${state}, in deps:unresolved: ${isListed}`,
      upstream: edge.upstream,
    };
  }
  return {
    edition: fixture.edition,
    flowId: fixture.flow.id,
    executions: read,
    indexes,
    flow: { state, reason },
    pendingCancels,
    backlog: typeof backlog === "string" ? Number(backlog) : undefined,
    pendingGroups,
    published: [],
  };
}

/** Returns a state in a form in which equal states are equal: without empty fields and indexes. */
export function comparable(world: World): unknown {
  return {
    ...world,
    published: undefined,
    indexes: withoutEmpty(world.indexes, (index) => Object.keys(index).length === 0),
    executions: world.executions.map((execution) => ({
      ...execution,
      core: withoutEmpty(execution.core, (value) => value === ""),
      attempts: execution.attempts.map((fields) => withoutEmpty(fields, (value) => value === "")),
    })),
  };
}

function withoutEmpty<T>(
  record: Readonly<Record<string, T>>,
  isEmpty: (value: T) => boolean,
): Record<string, T> {
  return Object.fromEntries(Object.entries(record).filter(([, value]) => !isEmpty(value)));
}

function fieldsFrom(names: readonly string[], reply: unknown): Fields {
  const values = textsOf(reply);
  return withoutEmpty(
    Object.fromEntries(names.map((name, at) => [name, values[at] ?? ""])),
    (value) => value === "",
  );
}

function orUndefined(fields: Fields): Fields | undefined {
  return Object.keys(fields).length === 0 ? undefined : fields;
}

function groupOf(fields: Fields): Group | undefined {
  if (Object.keys(fields).length === 0) return undefined;
  const count = (name: string): number => Number(fields[name] ?? 0) || 0;
  return {
    policy: fields.policy_variant ?? "",
    onSatisfied: fields.on_satisfied ?? "",
    k: count("k"),
    n: count("n"),
    succeeded: count("succeeded"),
    failed: count("failed"),
    skipped: count("skipped"),
    state: fields.group_state ?? "",
    pending: fields.cancel_siblings_pending_flag === "true",
    siblings: (fields.cancel_siblings_pending_members ?? "")
      .split("|")
      .filter((id) => id !== "")
      .sort(),
  };
}

function eventsOf(reply: unknown): string[] {
  return (Array.isArray(reply) ? reply : []).map((entry: unknown) => {
    const { event = "", reason } = fieldsOf(Array.isArray(entry) ? entry[1] : []);
    return reason === undefined ? event : `${event} ${reason}`;
  });
}

function scoresOf(flat: readonly string[]): Index {
  return Object.fromEntries(
    flat.flatMap((id, at) => (at % 2 === 0 ? [[id, Number(flat[at + 1])] as const] : [])),
  );
}

function textsOf(reply: unknown): string[] {
  return (Array.isArray(reply) ? reply : []).map((value: unknown) =>
    typeof value === "string" ? value : "",
  );
}

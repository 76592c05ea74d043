/** Finds the members of a flow that will not go on by themselves, and the oldest ones in each open state. */

import { SETTLE_MS } from "#operate/flows/flow-entry.ts";
import {
  type MemberPorts,
  type MemberSummary,
  MemberTally,
  memberRecords,
  type SizedFlow,
  TALLIED_FIELDS,
} from "#operate/flows/members.ts";
import { readAll, readOfEach, textsOf } from "#shared/consistency/read.ts";
import { command } from "#shared/contract/command.ts";
import { type EdgeId, type ExecutionId, parseEdgeId } from "#shared/contract/ids.ts";
import { isTerminalOutcome, type PublicState, parseTime } from "#shared/contract/record.ts";
import { chunked } from "#shared/valkey/batches.ts";

export const STUCK_MEMBER_REASONS = [
  "upstreams_ended",
  "lease_expired",
  "delay_over",
  "unclaimed",
  "suspended",
  "no_record",
] as const;
export type StuckMemberReason = (typeof STUCK_MEMBER_REASONS)[number];

/** A member that has not ended. */
export interface OpenMember {
  readonly id: ExecutionId;
  /** Empty: without a record. */
  readonly state: PublicState | "";
  readonly lane: string;
  /** When it entered this state. */
  readonly since: number;
}

export interface StuckMember extends OpenMember {
  readonly reason: StuckMemberReason;
}

export interface InspectedMembers {
  readonly summary: MemberSummary;
  /** The member that has been the longest in each open state. */
  readonly oldest: readonly OpenMember[];
  /** The longest stuck first, not more than asked for. */
  readonly stuck: readonly StuckMember[];
  readonly stuckCount: number;
  /** Blocked members whose upstreams were not read: there was no time, or they have too many. */
  readonly unexamined: number;
}

const FIELDS = [
  ...TALLIED_FIELDS,
  "lane_id",
  "last_transition_at",
  "terminal_outcome",
  "lease_expires_at",
  "ownership_state",
];
/** Blocked members that are examined at once. */
const BATCH = 250;
/** A member that waits for more upstreams is not examined. */
const MAX_UNRESOLVED = 1_000;

interface Options {
  readonly nowMs: number;
  /** An eligible member that is not claimed for this time counts as stuck. */
  readonly unchangedMs: number;
  readonly limit: number;
  readonly isLate: () => boolean;
}

/** Reads all members of a flow. Throws a ValkeyError. */
export async function inspectMembers(
  ports: MemberPorts,
  flow: SizedFlow,
  { nowMs, unchangedMs, limit, isLate }: Options,
): Promise<InspectedMembers> {
  const tally = new MemberTally(nowMs);
  const oldest = new Map<string, OpenMember>();
  const stuck: StuckMember[] = [];
  const blocked: OpenMember[] = [];
  /** When each member that has ended did so. */
  const endedAt = new Map<string, number>();
  for await (const page of memberRecords(ports, [flow], FIELDS)) {
    for (const { id, values } of page) {
      tally.add(values);
      const [state = "", changedAt = "", delayUntil = "", lane = "", since = "", outcome = "", ...lease] =
        values;
      if (isTerminalOutcome(outcome)) {
        endedAt.set(id, parseTime(changedAt) ?? 0);
        continue;
      }
      const member: OpenMember = {
        id,
        state: state as PublicState | "",
        lane,
        since: parseTime(since) ?? 0,
      };
      const known = oldest.get(state);
      if (state !== "" && (known === undefined || member.since < known.since)) oldest.set(state, member);
      if (state === "waiting_children") blocked.push(member);
      const reason = reasonOf(member, delayUntil, lease, nowMs, unchangedMs);
      if (reason !== undefined) stuck.push({ ...member, reason });
    }
  }
  const released = await findReleased(ports, blocked, endedAt, nowMs, isLate);
  stuck.push(...released.members.map((member) => ({ ...member, reason: "upstreams_ended" as const })));
  stuck.sort((left, right) => left.since - right.since);
  return {
    summary: tally,
    oldest: [...oldest.values()].sort((left, right) => left.since - right.since),
    stuck: stuck.slice(0, limit),
    stuckCount: stuck.length,
    unexamined: released.unexamined,
  };
}

function reasonOf(
  { state, since }: OpenMember,
  delayUntil: string,
  [expiresAt = "", ownership = ""]: readonly string[],
  nowMs: number,
  unchangedMs: number,
): StuckMemberReason | undefined {
  switch (state) {
    case "":
      return "no_record";
    case "suspended":
      return "suspended";
    case "waiting":
      return nowMs - since >= unchangedMs ? "unclaimed" : undefined;
    case "delayed":
      return nowMs - (parseTime(delayUntil) ?? nowMs) >= SETTLE_MS ? "delay_over" : undefined;
    case "active":
      return ownership !== "leased" || (parseTime(expiresAt) ?? 0) <= nowMs ? "lease_expired" : undefined;
    default:
      return undefined;
  }
}

/** Finds blocked members whose unresolved upstreams have all ended long enough ago, so that a message must be missing. */
async function findReleased(
  ports: MemberPorts,
  blocked: readonly OpenMember[],
  endedAt: ReadonlyMap<string, number>,
  nowMs: number,
  isLate: () => boolean,
): Promise<{ readonly members: readonly OpenMember[]; readonly unexamined: number }> {
  const members: OpenMember[] = [];
  let unexamined = 0;
  for (const some of chunked(blocked, () => 1, BATCH)) {
    if (isLate()) {
      unexamined += some.length;
      continue;
    }
    const sizes = await readAll(
      ports,
      some.map(({ id }) => {
        const { partition, depsUnresolved } = ports.router.execKeys(id);
        return command(partition, "scard", depsUnresolved);
      }),
    );
    const readable = some.filter((_, position) => Number(sizes[position]) <= MAX_UNRESOLVED);
    unexamined += some.length - readable.length;
    for (const { member, upstreams } of await readUpstreams(ports, readable)) {
      const ends = upstreams.map((upstream) => endedAt.get(upstream));
      const isReleased = ends.every((end) => end !== undefined && nowMs - end >= SETTLE_MS);
      if (isReleased && nowMs - member.since >= SETTLE_MS) members.push(member);
    }
  }
  return { members, unexamined };
}

/** Reads the upstreams of the unresolved edges of each member. */
async function readUpstreams(
  ports: MemberPorts,
  members: readonly OpenMember[],
): Promise<{ readonly member: OpenMember; readonly upstreams: readonly string[] }[]> {
  const keys = members.map(({ id }) => ports.router.execKeys(id));
  const sets = await readAll(
    ports,
    keys.map(({ partition, depsUnresolved }) => command(partition, "smembers", depsUnresolved)),
  );
  const items = members.map((member, position) => ({
    member,
    keys: keys[position] ?? ports.router.execKeys(member.id),
    edges: textsOf(sets[position]).flatMap((edge): EdgeId[] => {
      const id = parseEdgeId(edge);
      return id.ok ? [id.value] : [];
    }),
  }));
  const upstreams = await readOfEach(ports, items, ({ keys: own, edges }) =>
    edges.map((edge) => command(own.partition, "hmget", own.dep(edge), "upstream_execution_id")),
  );
  return items.map(({ member }, position) => ({
    member,
    upstreams: (upstreams[position] ?? []).map((fields) => textsOf(fields)[0] ?? ""),
  }));
}

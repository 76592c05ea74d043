/** Reads the records of flows' members, and sums them up. */

import { type ConsistencyPorts, membersOfEach, readAll, textsOf } from "#shared/consistency/read.ts";
import { command } from "#shared/contract/command.ts";
import { type ExecutionId, parseExecutionId } from "#shared/contract/ids.ts";
import type { FlowKeys } from "#shared/contract/keys.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { PUBLIC_STATES, type PublicState, parseTime } from "#shared/contract/record.ts";

export type MemberPorts = ConsistencyPorts & { readonly router: PartitionRouter };

/** A flow and the number of its members. */
export interface SizedFlow {
  readonly keys: FlowKeys;
  readonly size: number;
}

/** A member's record, in the fields that were asked for. A missing record has empty values. */
export interface MemberRecord {
  readonly flow: SizedFlow;
  readonly id: ExecutionId;
  readonly values: readonly string[];
}

/** Reads fields of the records of all members, many flows in one round trip. Throws a ValkeyError. */
export async function* memberRecords(
  ports: MemberPorts,
  flows: readonly SizedFlow[],
  fields: readonly string[],
): AsyncGenerator<MemberRecord[]> {
  const seen = new Map<SizedFlow, Set<string>>();
  const sets = flows.map((owner) => ({
    owner,
    size: owner.size,
    set: { partition: owner.keys.partition, key: owner.keys.members, type: "set" } as const,
  }));
  for await (const page of membersOfEach(ports, sets)) {
    const members = page.flatMap(({ owner, member }) => {
      const known = seen.get(owner) ?? new Set();
      seen.set(owner, known);
      const id = parseExecutionId(member);
      // A large set may return a member twice.
      if (!id.ok || known.has(member)) return [];
      known.add(member);
      return [{ flow: owner, id: id.value }];
    });
    const records = await readAll(
      ports,
      members.map(({ id }) => {
        const { partition, core } = ports.router.execKeys(id);
        return command(partition, "hmget", core, ...fields);
      }),
    );
    yield members.map((member, position) => ({ ...member, values: textsOf(records[position]) }));
  }
}

/** How many members have each state. `unknown`: without a record. */
export type MemberCounts = Readonly<Record<PublicState | "unknown", number>>;

export interface MemberSummary {
  readonly counts: MemberCounts;
  /** When a member's record last changed, a renewed lease included. 0 without members. */
  readonly changedAt: number;
  /** Whether a member waits for a time that has not come. */
  readonly isSleeping: boolean;
}

/** The fields of a record that `MemberTally.add` takes. */
export const TALLIED_FIELDS = ["public_state", "last_mutation_at", "delay_until"] as const;

/** Sums up the members of one flow. */
export class MemberTally implements MemberSummary {
  readonly counts: Record<PublicState | "unknown", number> = noMembers();
  changedAt = 0;
  isSleeping = false;
  readonly #nowMs: number;

  constructor(nowMs: number) {
    this.#nowMs = nowMs;
  }

  /** Adds a member by the values of `TALLIED_FIELDS`. */
  add([state = "", changedAt = "", delayUntil = ""]: readonly string[]): void {
    const known = PUBLIC_STATES.find((one) => one === state);
    this.counts[known ?? "unknown"] += 1;
    this.changedAt = Math.max(this.changedAt, parseTime(changedAt) ?? 0);
    if (known === "delayed" && (parseTime(delayUntil) ?? 0) > this.#nowMs) this.isSleeping = true;
  }
}

export function noMembers(): Record<PublicState | "unknown", number> {
  return Object.fromEntries([...PUBLIC_STATES, "unknown"].map((state) => [state, 0])) as Record<
    PublicState | "unknown",
    number
  >;
}

/** Sums up the members of each flow. */
export async function tallyMembers(
  ports: MemberPorts,
  flows: readonly SizedFlow[],
  nowMs: number,
): Promise<ReadonlyMap<SizedFlow, MemberSummary>> {
  const tallies = new Map(flows.map((flow) => [flow, new MemberTally(nowMs)]));
  for await (const page of memberRecords(ports, flows, TALLIED_FIELDS)) {
    for (const { flow, values } of page) tallies.get(flow)?.add(values);
  }
  return tallies;
}

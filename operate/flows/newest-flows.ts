/** Merges the flows of all partitions into one list, the newest first. */

import {
  decodeFlows,
  type FlowCounts,
  type FlowFilter,
  isNewer,
  type Place,
  searchFlows,
} from "#operate/flows/search-script.ts";
import type { Pipelines } from "#shared/contract/command.ts";
import type { Partition } from "#shared/contract/ids.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { chunked, valueOrThrow } from "#shared/valkey/batches.ts";

/** A flow and the partition whose index lists it. */
export interface ListedFlow extends Place {
  readonly partition: Partition;
}

interface Ports {
  readonly valkey: Pipelines;
  readonly router: PartitionRouter;
}

/** What is known of a partition: flows that were found and not listed yet, and where the search goes on. */
interface Source {
  readonly partition: Partition;
  readonly found: ListedFlow[];
  /** Undefined: there are no further flows than those in `found`. */
  after: Place | undefined;
  mayBeUnlisted: boolean;
}

/** Partitions whose searches are sent at once. A server takes them in parts of a few calls, and serves others in between. */
const PARTITIONS_AT_ONCE = 64;

const MAX_SHARE = 100;

/** Lists flows that match a filter, page by page. */
export class NewestFlows {
  readonly #ports: Ports;
  readonly #filter: FlowFilter;
  readonly #sources: readonly Source[];
  readonly #start: Place;
  /** Flows to find in a partition at once. */
  #share = 0;

  /** `mayBeUnlisted` of an earlier page is still true of this one, if it is false. */
  constructor(ports: Ports, filter: FlowFilter, after: Place, mayBeUnlisted: boolean) {
    this.#ports = ports;
    this.#filter = filter;
    this.#start = after;
    this.#sources = ports.router.partitions.map((partition) => ({
      partition,
      found: [],
      after,
      mayBeUnlisted,
    }));
  }

  /** Whether a flow may exist that `flows_created` does not list. */
  get mayBeUnlisted(): boolean {
    return this.#sources.some(({ mayBeUnlisted }) => mayBeUnlisted);
  }

  /**
   * Returns the next flows, `limit` at most, and the place after which the list goes on; no place if the list is complete.
   * Fewer flows, or none, if `isLate` says so before the search has found them.
   */
  async next(
    limit: number,
    isLate: () => boolean,
  ): Promise<{ readonly flows: readonly ListedFlow[]; readonly after: Place | undefined }> {
    // Flows are spread evenly: a partition rarely has many more of a page than its share.
    this.#share = Math.max(this.#share, Math.ceil(limit / this.#sources.length) + 3);
    const flows: ListedFlow[] = [];
    while (flows.length < limit) {
      const first = this.#takeFirst();
      if (first !== undefined) {
        flows.push(first);
        continue;
      }
      const open = this.#sources.filter(({ found, after }) => found.length === 0 && after !== undefined);
      if (open.length === 0 || isLate()) break;
      await this.#search(open, this.#share);
      // A caller that passes over most flows needs many more: the number of round trips stays small.
      this.#share = Math.min(2 * this.#share, MAX_SHARE);
    }
    return { flows, after: this.#isComplete() ? undefined : (flows.at(-1) ?? this.#reached()) };
  }

  async #search(sources: readonly Source[], limit: number): Promise<void> {
    const { valkey, router } = this.#ports;
    for (const some of chunked(sources, () => 1, PARTITIONS_AT_ONCE)) {
      const replies = await valkey.pipelined(
        some.map(({ partition, after = this.#start, mayBeUnlisted }) =>
          searchFlows(router.indexKeys(partition), this.#filter, after, limit, mayBeUnlisted),
        ),
      );
      for (const [position, source] of some.entries()) {
        const { flows, stoppedAt, hasUnlisted } = decodeFlows(valueOrThrow(replies[position]));
        source.found.push(...flows.map((flow) => ({ ...flow, partition: source.partition })));
        source.after = stoppedAt;
        source.mayBeUnlisted = hasUnlisted;
      }
    }
  }

  /** Takes the newest flow, unless a partition that is not searched to the end may have a newer one. */
  #takeFirst(): ListedFlow | undefined {
    let best: Source | undefined;
    for (const source of this.#sources) {
      const [head] = source.found;
      const [known] = best?.found ?? [];
      if (head !== undefined && (known === undefined || isNewer(head, known))) best = source;
    }
    const [head] = best?.found ?? [];
    const reached = this.#reached();
    if (head === undefined || (reached !== undefined && !isNewer(head, reached))) return undefined;
    return best?.found.shift();
  }

  /** Every flow before this place has been listed or found. Undefined if all flows have. */
  #reached(): Place | undefined {
    let newest: Place | undefined;
    for (const { found, after } of this.#sources) {
      if (found.length > 0 || after === undefined) continue;
      if (newest === undefined || isNewer(after, newest)) newest = after;
    }
    return newest;
  }

  #isComplete(): boolean {
    return this.#sources.every(({ found, after }) => found.length === 0 && after === undefined);
  }
}

/** Counts the flows that match a filter, by state. Undefined if `isLate` says so before the end. */
export async function countFlows(
  { valkey, router }: Ports,
  filter: FlowFilter,
  after: Place,
  isLate: () => boolean,
): Promise<FlowCounts | undefined> {
  const totals = { running: 0, completed: 0, failed: 0, cancelled: 0, uncounted: 0 };
  let open = router.partitions.map((partition) => ({ partition, after, mayBeUnlisted: true }));
  while (open.length > 0) {
    const further: typeof open = [];
    for (const some of chunked(open, () => 1, PARTITIONS_AT_ONCE)) {
      if (isLate()) return undefined;
      const replies = await valkey.pipelined(
        some.map((source) =>
          searchFlows(
            router.indexKeys(source.partition),
            filter,
            source.after,
            undefined,
            source.mayBeUnlisted,
          ),
        ),
      );
      for (const [position, { partition }] of some.entries()) {
        const { counts, stoppedAt, hasUnlisted } = decodeFlows(valueOrThrow(replies[position]));
        for (const state of Object.keys(totals) as (keyof typeof totals)[]) totals[state] += counts[state];
        if (stoppedAt !== undefined) {
          further.push({ partition, after: stoppedAt, mayBeUnlisted: hasUnlisted });
        }
      }
    }
    open = further;
  }
  return totals;
}

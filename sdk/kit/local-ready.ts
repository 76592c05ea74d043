import type { LaneRunner } from "#sdk/kit/lane-runner.ts";
import type { TaskRegistry } from "#sdk/kit/registry.ts";
import type { LaneId } from "#shared/contract/ids.ts";
import { pairResults } from "#shared/contract/results.ts";
import { PublishError } from "#shared/errors.ts";
import type { SendResult } from "#shared/queue/batch-sender.ts";
import type { ReadyExecution } from "#shared/ready/message.ts";
import type { ReadyPublisher, ReadyResult } from "#shared/ready/publisher.ts";

/**
 * Gives executions that this worker made eligible to its own lanes, as long as they have room, and announces the others in
 * their queues. An execution without a queue is left to polling.
 *
 * A worker that dies with executions in its lanes leaves them eligible: the reconciler announces them after its grace.
 */
export class LocalReady implements ReadyPublisher {
  readonly #queues: ReadyPublisher | undefined;
  readonly #tasks: TaskRegistry;
  readonly #lanes = new Map<LaneId, LaneRunner>();

  constructor(queues: ReadyPublisher | undefined, tasks: TaskRegistry) {
    this.#queues = queues;
    this.#tasks = tasks;
  }

  /** The runners need the dispatcher, which needs this publisher: they are added when they exist. */
  add(lane: LaneRunner): void {
    this.#lanes.set(lane.lane, lane);
  }

  announces(lane: LaneId): boolean {
    return this.#lanes.has(lane) || this.#queues?.announces(lane) === true;
  }

  async announce(ready: readonly ReadyExecution[], deadlineMs?: number): Promise<ReadyResult[]> {
    // Kinds that this worker does not know are for other workers of the lane.
    const others = ready.filter(
      (one) =>
        this.#tasks.find(one.kind, one.lane) === undefined ||
        this.#lanes.get(one.lane)?.offer(one, true) !== true,
    );
    const sent = others.filter(({ lane }) => this.#queues?.announces(lane));
    const answers = sent.length === 0 ? [] : ((await this.#queues?.announce(sent, deadlineMs)) ?? []);
    const noAnswer = (): SendResult => ({
      ok: false,
      error: new PublishError("no result for a ready message"),
    });
    const results = new Map(pairResults(sent, answers, noAnswer).map(({ item, result }) => [item, result]));
    return ready.map((one) => results.get(one) ?? { ok: true, isClaimedHere: true });
  }
}

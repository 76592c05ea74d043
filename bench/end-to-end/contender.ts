/** What the benchmark `end_to_end` compares: something that runs graphs of no-op tasks. */

/** How one graph went. Times are of `performance.now()`. */
export interface GraphRun {
  /** When the graph was submitted completely. */
  readonly submittedAt: number;
  /** When its last task began. */
  readonly endedAt: number;
  /** When each task began, in order. */
  readonly starts: readonly number[];
}

export interface Contender extends AsyncDisposable {
  readonly name: string;
  /** Runs a chain of this length. */
  chain(length: number): Promise<GraphRun>;
  /** Runs this many tasks between a first and a last one; for BullMQ, which has no first one, before a last one. */
  fan(width: number): Promise<GraphRun>;
  /** Requests to SQS and invocations of functions so far. */
  readonly traffic: Traffic;
}

export interface Traffic {
  readonly requests: number;
  readonly invocations: number;
}

export const NO_TRAFFIC: Traffic = { requests: 0, invocations: 0 };

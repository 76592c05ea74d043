/** What a relay has done since it started. Events are counted as they arrive; all but `reconnects` are events. */
export interface Tally {
  /** From Valkey, each node's copy by itself: the sum of the others but `reconnects`, of what is still waiting, and of what is being sent. */
  received: number;
  /** Copies of an event that another node of the cluster had delivered before. */
  duplicate: number;
  /** Not completion events. */
  malformed: number;
  /** Of executions in no flow, which have no children. */
  without_flow: number;
  /** With the outcome `skipped`: the dispatcher sends those itself. */
  skipped: number;
  /** Accepted by the queue. */
  forwarded: number;
  /** Given up for want of room while the queue did not accept any: left to the reconciler. */
  dropped: number;
  /** Subscriptions that came about on a node after one had been lost there. */
  reconnects: number;
}

export function newTally(): Tally {
  return {
    received: 0,
    duplicate: 0,
    malformed: 0,
    without_flow: 0,
    skipped: 0,
    forwarded: 0,
    dropped: 0,
    reconnects: 0,
  };
}

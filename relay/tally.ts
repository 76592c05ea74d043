/** Counters since the start of the relay. All but `reconnects` count events, at their arrival. */
export interface Tally {
  /** Events from Valkey, each node's copy separately. Equals the other event counters plus those waiting and in flight. */
  received: number;
  /** Copies of an event that another node had delivered before. */
  duplicate: number;
  /** Not completion events. */
  malformed: number;
  /** Events of executions without a flow, which have no children. */
  without_flow: number;
  /** Events with the outcome `skipped`: the dispatcher sends those completions itself. */
  skipped: number;
  /** Completions that the queue accepted. */
  forwarded: number;
  /** Completions dropped because the buffer was full. The reconciler recovers them. */
  dropped: number;
  /** Subscriptions that replaced a lost one. */
  reconnects: number;
}

/** Counters that are all 0. */
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

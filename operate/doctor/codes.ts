/** Everything that `doctor` can find. docs/doctor.md has the same table; a test compares them. */

/**
 * - `error`: work stops, is lost or goes wrong, now or at the next failure of a part.
 * - `warning`: it works, but something is at its limit, is not protected, or could not be checked.
 */
export type Severity = "error" | "warning";

export interface CodeEntry {
  readonly severity: Severity;
  /** What the finding means, and why it matters. */
  readonly meaning: string;
  /** A command to run or a setting to change. */
  readonly remedy: string;
}

const REDEPLOY = "run `npm run deploy`, or restart the functions, which load the library when they start";

export const CODES = {
  // Valkey
  valkey_unreachable: {
    severity: "error",
    meaning: "Valkey does not answer: nothing is dispatched, claimed or submitted",
    remedy: "check `VALKEY_URL`, the security group and the route to it, and whether the node runs",
  },
  valkey_node_unreachable: {
    severity: "error",
    meaning: "a primary of the cluster does not answer: the work in its slots stops",
    remedy: "restart the node, or promote its replica; then run `doctor` again",
  },
  valkey_refused: {
    severity: "error",
    meaning: "Valkey refuses the user or the password",
    remedy: "check `VALKEY_AUTH`, `VALKEY_USER` and the password: docs/valkey-access.md",
  },
  valkey_version_old: {
    severity: "error",
    meaning:
      "the server is older than Valkey 7.2, or not Valkey: it lacks commands that Sluice's library uses",
    remedy: "upgrade to Valkey 7.2 or later",
  },
  cluster_mode_wrong: {
    severity: "error",
    meaning: "`VALKEY_CLUSTER_MODE` is not what the server is: commands reach the wrong node, or none",
    remedy: "set `VALKEY_CLUSTER_MODE` to what the finding says",
  },
  cluster_slots_unserved: {
    severity: "error",
    meaning: "no primary serves some slots of the cluster: the flows in them stand still",
    remedy: "assign the slots (`valkey-cli --cluster fix`), or finish the resharding",
  },
  cluster_full_coverage: {
    severity: "warning",
    meaning: "the cluster requires full coverage: one failed primary stops all slots, not only its own",
    remedy: "set `cluster-require-full-coverage no` (ElastiCache: in the parameter group)",
  },
  library_missing: {
    severity: "error",
    meaning: "a primary has no `flowfabric` library: every call for its partitions fails",
    remedy: REDEPLOY,
  },
  library_outdated: {
    severity: "warning",
    meaning: "a primary has an earlier revision of Sluice's library than this release",
    remedy: REDEPLOY,
  },
  library_newer: {
    severity: "warning",
    meaning: "a primary has a later revision of Sluice's library than this release: this command line is old",
    remedy: "update the `sluice` package, and functions of an older release",
  },
  library_unknown: {
    severity: "error",
    meaning: "the library's version is not one that Sluice knows, so its edition is not known",
    remedy: "set `LIBRARY_EDITION` to 11 or 14 for all programs",
  },
  library_editions_differ: {
    severity: "error",
    meaning: "the primaries have different editions of the library: edge groups are decided wrongly on some",
    remedy: "set `LIBRARY_EDITION` to 14 and redeploy",
  },
  library_edition_wrong: {
    severity: "error",
    meaning: "the loaded edition is not the configured or the recorded one",
    remedy: "set `LIBRARY_EDITION` to `auto` or to the recorded edition, and redeploy",
  },
  partitions_differ: {
    severity: "error",
    meaning: "`FLOW_PARTITIONS` is not the recorded number: keys are looked up in the wrong partitions",
    remedy: "set `FLOW_PARTITIONS` to the recorded number. It never changes",
  },
  partitions_unrecorded: {
    severity: "warning",
    meaning: "the number of partitions is not recorded, so no program can check its own setting",
    remedy: "run `npm run deploy`: its provision function records the number",
  },
  eviction_policy: {
    severity: "error",
    meaning: "Valkey may evict keys when its memory is full: executions are lost without an error",
    remedy: "set `maxmemory-policy noeviction` (ElastiCache: in the parameter group)",
  },
  keys_evicted: {
    severity: "error",
    meaning: "Valkey has evicted keys since it started: records, marks or index entries are missing",
    remedy: "set `maxmemory-policy noeviction`, then run `sluice doctor --full` to find what is missing",
  },
  memory_low: {
    severity: "warning",
    meaning: "more than 75 % of the memory is used; at 100 %, Valkey refuses writes",
    remedy: "add shards or use larger nodes, or lower `RETENTION_HOURS`: docs/retention.md",
  },
  memory_full: {
    severity: "error",
    meaning: "more than 95 % of the memory is used: Valkey refuses writes now or soon",
    remedy: "use larger nodes now; then lower `RETENTION_HOURS`, or add shards",
  },
  memory_unlimited: {
    severity: "warning",
    meaning: "`maxmemory` is not set: the operating system ends the server when memory runs out",
    remedy: "set `maxmemory` to about three quarters of the machine's memory",
  },
  not_durable: {
    severity: "error",
    meaning: "Valkey neither writes an append-only file nor has a replica: a restart loses all executions",
    remedy: "set `appendonly yes`, or add a replica with failover",
  },
  replica_missing: {
    severity: "warning",
    meaning: "a primary has no replica: while it is down, its partitions stand still",
    remedy: "add a replica (ElastiCache: `valkeyReplicas` of at least 1)",
  },
  replica_behind: {
    severity: "warning",
    meaning: "a replica is offline or more than 5 s behind: a failover loses the writes of that time",
    remedy: "check the replica and the network; reduce the writes, or use larger nodes",
  },
  persistence_failing: {
    severity: "error",
    meaning:
      "Valkey cannot write its snapshot or append-only file: it loses data on a restart, or refuses writes",
    remedy: "read the server's log; free disk space or memory for the fork",
  },
  durability_off: {
    severity: "warning",
    meaning: "ElastiCache's durability is off or asynchronous: a failover loses acknowledged writes",
    remedy: "set `valkeyDurability: sync` (Valkey 9.0 or later): docs/deploy.md",
  },
  failover_off: {
    severity: "warning",
    meaning:
      "ElastiCache does not promote a replica when a primary fails: its partitions stand still until it is replaced",
    remedy: "enable automatic failover (and Multi-AZ) of the replication group",
  },
  clock_skew: {
    severity: "warning",
    meaning:
      "the clocks of this machine and of Valkey differ by more than a second: delays and grace periods shift",
    remedy: "synchronize the clock of the machine that is wrong (NTP)",
  },
  clock_wrong: {
    severity: "error",
    meaning:
      "the clocks differ by more than 30 s, the reconciler's grace period; from 5 minutes, AWS refuses requests",
    remedy: "synchronize the clock of the machine that is wrong (NTP)",
  },
  // Data
  lane_unrecorded: {
    severity: "error",
    meaning: "executions are in a lane that the reconciler does not know: it recovers nothing there",
    remedy: "add the lane to `LANES` of reconcile (parameter `lanes`)",
  },
  lane_invalid: {
    severity: "warning",
    meaning: "a recorded lane has a name that is not valid: the reconciler skips it",
    remedy: "remove the name: `SREM ff:idx:lanes <name>`",
  },
  index_inconsistent: {
    severity: "warning",
    meaning: "an index, a counter or a key disagrees with the record of an execution or a flow",
    remedy: "run `sluice doctor --full` to see all of them, and `sluice explain` for one execution",
  },
  execution_stuck: {
    severity: "error",
    meaning: "an execution waits, and no edge is left that could release or skip it",
    remedy: "run `sluice reconcile`, then `sluice explain` for the execution",
  },
  edge_unapplied: {
    severity: "warning",
    meaning: "an edge is staged but not applied: its flow was not submitted completely",
    remedy: "submit the flow again with the same id, or cancel it",
  },
  reconciler_silent: {
    severity: "error",
    meaning:
      "no run of the reconciler has ended in five minutes: missed completions and dead workers are not recovered",
    remedy: "read the log of reconcile, and check its schedule; until then, run `sluice reconcile`",
  },
  // Queues
  queue_missing: {
    severity: "error",
    meaning: "a configured queue does not exist",
    remedy: "correct the URL, or deploy the stack",
  },
  queue_unreachable: {
    severity: "error",
    meaning: "SQS does not answer for a queue",
    remedy: "check `AWS_REGION`, the endpoint, and the route to SQS (in a VPC: the interface endpoint)",
  },
  redrive_missing: {
    severity: "error",
    meaning:
      "a queue has no redrive policy: a message that always fails is retried until it expires, and blocks nothing else, but is lost",
    remedy: "set a redrive policy to a dead-letter queue: docs/deploy.md",
  },
  redrive_elsewhere: {
    severity: "error",
    meaning: "the redrive policy of the completions queue names another queue than `DEAD_LETTER_QUEUE_URL`",
    remedy: "set both to the same queue, so that all dead letters are in one place",
  },
  redrive_early: {
    severity: "warning",
    meaning: "`maxReceiveCount` is low: throttles and short outages turn messages into dead letters",
    remedy: "set it to at least 5 for completions, and 100 for ready queues",
  },
  redrive_refused: {
    severity: "error",
    meaning: "the dead-letter queue does not allow the queue as a source: SQS cannot move messages to it",
    remedy: "add the source queue's ARN to the `RedriveAllowPolicy` of the dead-letter queue",
  },
  dead_letter_retention: {
    severity: "error",
    meaning:
      "the dead-letter queue keeps messages no longer than its source: dead letters expire early, since their age counts from the first send",
    remedy: "set `MessageRetentionPeriod` of the dead-letter queue to 1209600 (14 days)",
  },
  queue_unencrypted: {
    severity: "warning",
    meaning: "a queue is not encrypted at rest",
    remedy: "set `SqsManagedSseEnabled` to true, or a KMS key",
  },
  visibility_short: {
    severity: "warning",
    meaning:
      "the visibility timeout is less than six function timeouts plus the batching window: messages are delivered again while they are processed",
    remedy: "raise `VisibilityTimeout` of the queue, or lower the function's timeout",
  },
  dead_letters_present: {
    severity: "warning",
    meaning: "messages were given up and wait for a decision",
    remedy: "`sluice dlq list` shows the reasons; then `sluice dlq replay` or `sluice dlq purge`",
  },
  // Functions
  event_source_missing: {
    severity: "error",
    meaning: "no function is triggered by the completions queue: nothing is dispatched",
    remedy: "create the event source mapping: run `npm run deploy`",
  },
  event_source_disabled: {
    severity: "error",
    meaning: "an event source mapping is disabled: the messages of its queue wait",
    remedy: "`aws lambda update-event-source-mapping --uuid <uuid> --enabled`",
  },
  event_source_failing: {
    severity: "error",
    meaning: "an event source mapping reports a problem: it cannot read the queue or invoke the function",
    remedy: "check the role of the function, and the key of the queue",
  },
  event_source_whole_batches: {
    severity: "error",
    meaning:
      "an event source mapping lacks `ReportBatchItemFailures`: one failure repeats the whole batch, and failures reported by the function are ignored",
    remedy:
      "`aws lambda update-event-source-mapping --uuid <uuid> --function-response-types ReportBatchItemFailures`",
  },
  event_source_several: {
    severity: "error",
    meaning: "several functions take messages from one queue: each gets only some of them",
    remedy: "delete the event source mapping of the wrong function",
  },
  function_missing: {
    severity: "error",
    meaning: "a function of the deployment does not exist",
    remedy: "run `npm run deploy`",
  },
  function_not_active: {
    severity: "error",
    meaning: "a function cannot be invoked, or its last update failed",
    remedy: "read the reason, correct it, and run `npm run deploy`",
  },
  function_stopped: {
    severity: "error",
    meaning: "a function has a reserved concurrency of 0: it is never invoked",
    remedy: "`aws lambda delete-function-concurrency --function-name <name>`, or set the right number",
  },
  function_loop_detection: {
    severity: "error",
    meaning: "Lambda's loop detection is on: it stops a skip cascade or a chain of tasks after about 16 hops",
    remedy: "`aws lambda put-function-recursion-config --function-name <name> --recursive-loop Allow`",
  },
  function_settings_differ: {
    severity: "error",
    meaning:
      "a setting that all functions must share is not the same in all of them, or not the one of this command",
    remedy: "set it to one value for all: run `npm run deploy`",
  },
  concurrency_unlimited: {
    severity: "warning",
    meaning: "nothing limits how many invocations a queue starts: a backlog can overload Valkey",
    remedy: "set `MaximumConcurrency` of the event source mapping (parameter `maximumConcurrency`)",
  },
  concurrency_reserved_low: {
    severity: "warning",
    meaning:
      "the reserved concurrency is below the mapping's `MaximumConcurrency`: messages are throttled, and each throttle counts as a delivery",
    remedy: "raise the reserved concurrency, or lower `maximumConcurrency`",
  },
  concurrency_account_low: {
    severity: "warning",
    meaning:
      "the account's concurrency is below the sum of what the queues may start: functions are throttled under load",
    remedy: "request a higher Lambda concurrency limit, or lower `maximumConcurrency`",
  },
  // The check itself
  credentials_missing: {
    severity: "error",
    meaning: "AWS does not accept the caller's credentials, or credentials or region are not set",
    remedy: "`aws sts get-caller-identity` shows whether they work; log in again, and set `AWS_REGION`",
  },
  permission_missing: {
    severity: "warning",
    meaning: "the caller lacks a permission, so a check is not complete",
    remedy: "allow what the finding names, then run `doctor` again",
  },
  check_timed_out: {
    severity: "warning",
    meaning: "a check did not end in time",
    remedy: "run `doctor` again; if it stays, its part answers slowly",
  },
  check_failed: {
    severity: "warning",
    meaning: "a check failed with an error that it does not know",
    remedy: "run `doctor` again with `--debug`, and report the error",
  },
} as const satisfies Readonly<Record<string, CodeEntry>>;

export type FindingCode = keyof typeof CODES;

export const FINDING_CODES = Object.keys(CODES) as readonly FindingCode[];

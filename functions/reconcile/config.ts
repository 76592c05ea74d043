import type { LaneId } from "#shared/contract/ids.ts";
import { readReadyQueues } from "#shared/ready/config.ts";
import { readLanes, readRetentionMs } from "#shared/reconcile/config.ts";
import { readGraceMs } from "#shared/reconcile/grace.ts";
import { isTaskName, TASK_NAMES, type TaskName } from "#shared/reconcile/task-names.ts";
import {
  type Environment,
  isSet,
  readConfiguration,
  readInteger,
  readQueueUrl,
} from "#shared/runtime/environment.ts";
import { readValkeyConfig, type ValkeyConfig } from "#shared/valkey/config.ts";

/** The configuration of the reconcile function, from its environment variables. */
export interface ReconcileConfig extends ValkeyConfig {
  readonly completionsQueueUrl: string;
  /** The ready queues by lane. */
  readonly readyQueueUrls: ReadonlyMap<LaneId, string>;
  /** Lanes to sweep in addition to those that the deployment records: those of `LANES`, and those with a ready queue. */
  readonly lanes: readonly LaneId[];
  /** Milliseconds after the end of an upstream during which dispatch may still process its completion. */
  readonly graceMs: number;
  /** Undefined: all tasks, or only `dependencies` if the loaded library is not Sluice's. */
  readonly tasks: readonly TaskName[] | undefined;
  /** How long ended flows and executions are kept, in milliseconds. 0: for ever. */
  readonly retentionMs: number;
  /** Receives one message for each flow that ended. */
  readonly flowEventsQueueUrl: string | undefined;
  /** How often leases, timeouts and delays are checked. Infinite: once for each invocation. */
  readonly intervalMs: number;
}

/** The interval of the schedule. */
const SCHEDULE_SECONDS = 60;

/** Reads the configuration. Throws one ConfigurationError that lists every invalid variable. */
export function readReconcileConfig(env: Environment): ReconcileConfig {
  return readConfiguration(env, (errors) => {
    const graceMs = readGraceMs(env, errors);
    const intervalSeconds = readInteger(
      env,
      "RECONCILE_INTERVAL_SECONDS",
      1,
      SCHEDULE_SECONDS,
      SCHEDULE_SECONDS,
      errors,
    );
    const readyQueueUrls = readReadyQueues(env, errors);
    return {
      ...readValkeyConfig(env, errors),
      completionsQueueUrl: readQueueUrl(env, "COMPLETIONS_QUEUE_URL", errors),
      readyQueueUrls,
      lanes: [...new Set([...readLanes(env, errors), ...readyQueueUrls.keys()])],
      graceMs,
      tasks: readTasks(env, errors),
      retentionMs: readRetentionMs(env, errors),
      flowEventsQueueUrl: isSet(env, "FLOW_EVENTS_QUEUE_URL")
        ? readQueueUrl(env, "FLOW_EVENTS_QUEUE_URL", errors)
        : undefined,
      intervalMs: intervalSeconds < SCHEDULE_SECONDS ? intervalSeconds * 1_000 : Number.POSITIVE_INFINITY,
    };
  });
}

function readTasks(env: Environment, errors: string[]): TaskName[] | undefined {
  if (!isSet(env, "RECONCILE_TASKS")) return undefined;
  const tasks = new Set<TaskName>();
  for (const text of (env.RECONCILE_TASKS ?? "").split(",")) {
    const name = text.trim();
    if (isTaskName(name)) tasks.add(name);
    else errors.push(`RECONCILE_TASKS contains "${name}": expected names from ${TASK_NAMES.join(", ")}`);
  }
  return [...tasks];
}

/** The metrics that the alarms and the dashboard use. `${…}` in a dimension is a placeholder of CloudFormation's Fn::Sub. */

import {
  DIMENSION,
  type METRICS_BY_FUNCTION,
  NAMESPACE,
  STAGE_DIMENSION,
} from "#shared/runtime/telemetry.ts";
import type { ReadyLane } from "./lanes.ts";

type Emitted = typeof METRICS_BY_FUNCTION;

export interface Metric {
  readonly namespace: string;
  readonly name: string;
  readonly dimensions: Readonly<Record<string, string>>;
}

/** An alarm on one metric. */
export interface AlarmSpec {
  readonly description: string;
  readonly metric: Metric;
  readonly statistic: "Sum" | "Maximum";
  /** The alarm fires above this value. */
  readonly above: number;
  /** Minutes in a row above the threshold. 1 if omitted. */
  readonly minutes?: number;
}

/** What the alarms and the dashboard of one deployment depend on. */
export interface Deployment {
  readonly stage: string;
  /** Alarm threshold for the age of the oldest completion. */
  readonly oldestMessageSeconds: number;
  /** The lanes with worker functions. */
  readonly lanes: readonly ReadyLane[];
  /** The stack's own replication group; undefined if Valkey is not in the stack. */
  readonly valkey: { readonly shards: number; readonly replicas: number } | undefined;
}

/** A metric that a Sluice function emits. */
export function sluice<Service extends keyof Emitted>(
  { stage }: Deployment,
  service: Service,
  name: Emitted[Service][number],
): Metric {
  return { namespace: NAMESPACE, name, dimensions: { [DIMENSION]: service, [STAGE_DIMENSION]: stage } };
}

/** A metric of AWS Lambda. `resource` is the logical id of the function. */
export function lambda(resource: string, name: string): Metric {
  return { namespace: "AWS/Lambda", name, dimensions: { FunctionName: `\${${resource}}` } };
}

/** A metric of Amazon SQS. `resource` is the logical id of the queue. */
export function queue(resource: string, name: string): Metric {
  return { namespace: "AWS/SQS", name, dimensions: { QueueName: `\${${resource}.QueueName}` } };
}

/** A metric of every node of a shard. ElastiCache names the nodes `<group>-<shard>-<node>`, both numbers from 1. */
export function valkeyNodes(shard: number, nodes: number, name: string): Metric[] {
  return Array.from({ length: nodes }, (_, index) => ({
    namespace: "AWS/ElastiCache",
    name,
    dimensions: {
      CacheClusterId: `\${ValkeyReplicationGroup}-${padded(shard, 4)}-${padded(index + 1, 3)}`,
    },
  }));
}

function padded(number: number, length: number): string {
  return String(number).padStart(length, "0");
}

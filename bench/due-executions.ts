/** Executions for which a task of the reconciler has something to do. */

import { randomUUID } from "node:crypto";
import { ROUTER } from "#bench/flows.ts";
import { command, type Pipelines, type ValkeyCommand } from "#shared/contract/command.ts";
import {
  mintExecutionId,
  parseAttemptIndex,
  parseFlowId,
  parseLaneId,
  unwrap,
} from "#shared/contract/ids.ts";
import type { ExecKeys, FlowKeys } from "#shared/contract/keys.ts";
import { cancelExecution, claimExecution, issueClaimGrant } from "#shared/contract/ownership.ts";
import { createExecution } from "#shared/contract/submission.ts";
import { chunked, readEach, sendChunks } from "#shared/valkey/batches.ts";

const LANE = unwrap(parseLaneId("default"));
const NO_ATTEMPT = unwrap(parseAttemptIndex("0"));
const WORKER = { workerId: "bench", instanceId: "bench-1" };
/** Executions of one partition: that many share a flow. */
const FLOW_SIZE = 500;
const EXECUTIONS_PER_PIPELINE = 1_000;
const MINUTE_MS = 60_000;
/** Longer than the default retention of a week. */
const LONG_AGO_MS = 30 * 24 * 60 * MINUTE_MS;

interface DueExecution {
  readonly keys: ExecKeys;
  readonly flow: FlowKeys;
}

/**
 * What makes an execution due. `expiring`: of a flow, with a child, so that its completion is sent. `cancelled`: its flow is
 * cancelled. `ended`: its retention is over; it has no flow.
 */
export type DueKind = "lease" | "timeout" | "expiring" | "delay" | "cancelled" | "ended";

/** Creates executions that have been due for a minute. */
export async function createDue(valkey: Pipelines, kind: DueKind, count: number): Promise<void> {
  const executions: DueExecution[] = [];
  while (executions.length < count) {
    const flow = ROUTER.flowKeys(unwrap(parseFlowId(randomUUID())));
    for (let left = Math.min(FLOW_SIZE, count - executions.length); left > 0; left -= 1) {
      const id = unwrap(mintExecutionId(flow.partition, randomUUID()));
      executions.push({ keys: ROUTER.execKeys(id), flow });
    }
  }
  const chunks = chunked(executions, undefined, EXECUTIONS_PER_PIPELINE);
  await sendChunks(chunks, (chunk) =>
    readEach(
      valkey,
      chunk.flatMap((execution) => commandsOf(execution, kind)),
      (one) => one,
    ),
  );
}

function commandsOf({ keys, flow }: DueExecution, kind: DueKind): ValkeyCommand[] {
  const { partition } = keys;
  const index = ROUTER.indexKeys(partition);
  const past = Date.now() - MINUTE_MS;
  const write = (name: string, key: string, ...args: (string | number)[]) =>
    command(partition, name, key, ...args);
  const creation = createExecution({
    keys,
    index,
    namespace: "bench",
    lane: LANE,
    kind: "task",
    priority: 0,
    creator: "bench",
    policyJson: "",
    payload: "",
    ...(kind === "delay" ? { delayUntil: Date.now() + 60 * MINUTE_MS } : {}),
  });
  if (kind === "delay") {
    const due = write("zadd", index.lane(LANE).delayed, past, keys.id);
    return [creation, write("hset", keys.core, "delay_until", past), due];
  }
  if (kind === "cancelled") {
    return [
      creation,
      write(
        "hset",
        flow.core,
        "flow_id",
        flow.id,
        "public_flow_state",
        "cancelled",
        "cancel_reason",
        "bench",
      ),
      write("sadd", flow.pendingCancels, keys.id),
      write("zadd", index.cancelBacklog, past, flow.id),
    ];
  }
  const target = { keys, index, lane: LANE };
  if (kind === "ended") {
    const end = Date.now() - LONG_AGO_MS;
    return [
      creation,
      cancelExecution(target, WORKER, NO_ATTEMPT, { reason: "bench", source: "operator_override" }),
      write("hset", keys.core, "completed_at", end),
      write("zadd", index.lane(LANE).terminal, end, keys.id),
    ];
  }
  const terms = { leaseId: randomUUID(), attemptId: randomUUID(), leaseTtlMs: MINUTE_MS, renewBeforeMs: 1 };
  const claimed = [
    creation,
    issueClaimGrant(target, WORKER, MINUTE_MS),
    claimExecution(target, WORKER, { ...terms, attemptTimeoutMs: MINUTE_MS }),
  ];
  if (kind === "lease") {
    const due = write("zadd", index.leaseExpiry, past, keys.id);
    return [...claimed, write("hset", keys.core, "lease_expires_at", past), due];
  }
  const due = write("zadd", index.attemptTimeout, past, keys.id);
  if (kind === "timeout") return [...claimed, due];
  return [
    ...claimed,
    due,
    write("hset", keys.core, "flow_id", flow.id),
    write("sadd", flow.outgoing(keys.id), randomUUID()),
  ];
}

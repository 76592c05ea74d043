import type { ExecutionId, FlowId, LaneId, Partition } from "#shared/contract/ids.ts";
import { partitionOf } from "#shared/contract/ids.ts";
import { ExecKeys, FlowKeys, IndexKeys } from "#shared/contract/keys.ts";

/** The counts of `ff:config:partitions`. They never change during the life of a deployment (contract, section 2). */
export interface PartitionConfig {
  readonly numFlowPartitions: number;
  readonly numBudgetPartitions: number;
  readonly numQuotaPartitions: number;
}

/** The counts that a deployment uses unless it is configured otherwise. */
export const DEFAULT_PARTITION_CONFIG: PartitionConfig = {
  numFlowPartitions: 256,
  numBudgetPartitions: 32,
  numQuotaPartitions: 32,
};

const CLUSTER_SLOTS = 16_384;

const CRC16_TABLE = Uint16Array.from({ length: 256 }, (_, byte) => {
  let crc = byte << 8;
  for (let bit = 0; bit < 8; bit += 1) crc = crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1;
  return crc;
});

/** Returns the CRC16/XMODEM: polynomial 0x1021, initial value 0, no reflection. `"123456789"` gives 0x31C3. */
export function crc16(bytes: Uint8Array): number {
  let crc = 0;
  for (const byte of bytes) crc = ((crc << 8) & 0xffff) ^ (CRC16_TABLE[(crc >> 8) ^ byte] ?? 0);
  return crc;
}

/** Returns the cluster hash slot of all keys of a partition (contract, section 2). */
export function slotOf(partition: Partition): number {
  return crc16(Buffer.from(`fp:${partition}`)) % CLUSTER_SLOTS;
}

/**
 * Maps flows, executions and lanes to partitions, and builds their keys, for one partition count. All code gets its keys
 * here.
 *
 * @example
 * const router = new PartitionRouter({ ...DEFAULT_PARTITION_CONFIG, numFlowPartitions: 1024 });
 * router.execKeys(executionId).core; // "ff:exec:{fp:24}:{fp:24}:550e8400-…:core"
 */
export class PartitionRouter {
  readonly config: PartitionConfig;

  /** Throws a RangeError unless the number of flow partitions is an integer from 1 to 65,536. */
  constructor(config: PartitionConfig = DEFAULT_PARTITION_CONFIG) {
    const count = config.numFlowPartitions;
    if (!Number.isInteger(count) || count < 1 || count > 65_536) {
      throw new RangeError(`the number of flow partitions must be 1 to 65536, not ${count}`);
    }
    this.config = config;
  }

  get numFlowPartitions(): number {
    return this.config.numFlowPartitions;
  }

  /** All flow partitions, in order. */
  get partitions(): Partition[] {
    return Array.from({ length: this.config.numFlowPartitions }, (_, index) => index as Partition);
  }

  /**
   * Returns the partition in the hash tag of an execution id. It is not computed from the UUID and may exceed the
   * configured count: ids outlive configurations (contract, section 2).
   */
  partitionFor(executionId: ExecutionId): Partition {
    return partitionOf(executionId);
  }

  /** Returns the partition of a flow: CRC16 of the UUID's 16 raw bytes, modulo the count. */
  flowPartition(flowId: FlowId): Partition {
    return this.#partition(Buffer.from(flowId.replaceAll("-", ""), "hex"));
  }

  /** Returns the partition of an execution outside any flow: CRC16 of the lane's bytes, modulo the count. */
  soloPartition(lane: LaneId): Partition {
    return this.#partition(Buffer.from(lane, "utf8"));
  }

  /** Returns the keys of an execution, in the partition of its id. */
  execKeys(executionId: ExecutionId): ExecKeys {
    return new ExecKeys(executionId);
  }

  /**
   * Returns the keys of a flow. Pass `partition` for a flow that was created under another partition count: its keys
   * carry the tag of its members.
   */
  flowKeys(flowId: FlowId, partition: Partition = this.flowPartition(flowId)): FlowKeys {
    return new FlowKeys(partition, flowId);
  }

  /** Returns the keys of a partition's indexes. */
  indexKeys(partitionIndex: Partition): IndexKeys {
    return new IndexKeys(partitionIndex);
  }

  #partition(bytes: Uint8Array): Partition {
    return (crc16(bytes) % this.config.numFlowPartitions) as Partition;
  }
}

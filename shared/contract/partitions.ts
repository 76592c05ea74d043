import type { ExecutionId, FlowId, LaneId, Partition } from "#shared/contract/ids.ts";
import { partitionOf } from "#shared/contract/ids.ts";
import { ExecKeys, FlowKeys, IndexKeys } from "#shared/contract/keys.ts";

/** The counts of `ff:config:partitions`, fixed for a deployment's life (contract, section 2). */
export interface PartitionConfig {
  readonly numFlowPartitions: number;
  readonly numBudgetPartitions: number;
  readonly numQuotaPartitions: number;
}

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

/** CRC16/XMODEM: polynomial 0x1021, initial value 0, no reflection. `"123456789"` gives 0x31C3. */
export function crc16(bytes: Uint8Array): number {
  let crc = 0;
  for (const byte of bytes) crc = ((crc << 8) & 0xffff) ^ (CRC16_TABLE[(crc >> 8) ^ byte] ?? 0);
  return crc;
}

/** A cluster's hash slot of a partition's tag, and so of all its keys (contract, section 2). */
export function slotOf(partition: Partition): number {
  return crc16(Buffer.from(`fp:${partition}`)) % CLUSTER_SLOTS;
}

/**
 * Routes flows, executions and lanes to their partitions, and builds their keys, for one partition count. The one way
 * to get keys.
 *
 * @example
 * const router = new PartitionRouter({ ...DEFAULT_PARTITION_CONFIG, numFlowPartitions: 1024 });
 * router.execKeys(executionId).core; // "ff:exec:{fp:24}:{fp:24}:550e8400-…:core"
 */
export class PartitionRouter {
  readonly config: PartitionConfig;

  /** Throws a RangeError unless the number of flow partitions is a whole number from 1 to 65,536. */
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

  /** Every flow partition, in order. */
  get partitions(): Partition[] {
    return Array.from({ length: this.config.numFlowPartitions }, (_, index) => index as Partition);
  }

  /**
   * The partition that an execution's id names in its tag. It is never hashed again and may exceed the configured
   * count: ids outlive configurations (contract, section 2).
   */
  partitionFor(executionId: ExecutionId): Partition {
    return partitionOf(executionId);
  }

  /** A flow's partition: CRC16 of the UUID's 16 raw bytes, modulo the count. */
  flowPartition(flowId: FlowId): Partition {
    return this.#partition(Buffer.from(flowId.replaceAll("-", ""), "hex"));
  }

  /** The partition of an execution outside any flow: CRC16 of its lane's bytes, modulo the count. */
  soloPartition(lane: LaneId): Partition {
    return this.#partition(Buffer.from(lane, "utf8"));
  }

  /** The keys of an execution, in its own partition. */
  execKeys(executionId: ExecutionId): ExecKeys {
    return new ExecKeys(executionId);
  }

  /**
   * The keys of a flow. `partition` is the flow's own unless given: an id from a deployment with another partition
   * count is found under the tag of its members.
   */
  flowKeys(flowId: FlowId, partition: Partition = this.flowPartition(flowId)): FlowKeys {
    return new FlowKeys(partition, flowId);
  }

  /** The indexes of a partition. */
  indexKeys(partitionIndex: Partition): IndexKeys {
    return new IndexKeys(partitionIndex);
  }

  #partition(bytes: Uint8Array): Partition {
    return (crc16(bytes) % this.config.numFlowPartitions) as Partition;
  }
}

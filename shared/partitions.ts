import type { ExecutionId, FlowId, LaneId, Partition } from "#shared/ids.ts";
import { partitionOf } from "#shared/ids.ts";
import { ExecKeys, FlowKeys, IndexKeys } from "#shared/keys.ts";

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

/** Where the keys of flows, executions and lanes live, for one partition count. */
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

  /** A flow's partition: CRC16 of the UUID's 16 raw bytes, modulo the count. */
  partitionFor(flowId: FlowId): Partition {
    return this.#partition(Buffer.from(flowId.replaceAll("-", ""), "hex"));
  }

  /** The partition of an execution outside any flow: CRC16 of its lane's bytes, modulo the count. */
  partitionForLane(lane: LaneId): Partition {
    return this.#partition(Buffer.from(lane, "utf8"));
  }

  /** An execution's keys, in the partition that its id names: never hashed again. */
  execKeys(id: ExecutionId): ExecKeys {
    return new ExecKeys(partitionOf(id), id);
  }

  /** A flow's keys, in the flow's partition. */
  flowKeys(id: FlowId): FlowKeys {
    return new FlowKeys(this.partitionFor(id), id);
  }

  indexKeys(partition: Partition): IndexKeys {
    return new IndexKeys(partition);
  }

  #partition(bytes: Uint8Array): Partition {
    return (crc16(bytes) % this.config.numFlowPartitions) as Partition;
  }
}

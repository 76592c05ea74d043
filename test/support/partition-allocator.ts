/** Gives each test flow a partition that no other flow of the same test run uses. */

import { randomUUID } from "node:crypto";
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { type FlowId, parseFlowId, unwrap } from "#shared/contract/ids.ts";
import { crc16 } from "#shared/contract/partitions.ts";

export const TEST_PARTITIONS = 65_536;
/** Tests that name a partition use one below this number. */
const RESERVED_PARTITIONS = 256;
const BLOCK_SIZE = 32;
const BLOCKS = TEST_PARTITIONS / BLOCK_SIZE;

/** `TAIL_OF_CRC[crc16([high, low])]` is `high << 8 | low`: CRC16 of two bytes is a bijection. */
const TAIL_OF_CRC = new Uint16Array(TEST_PARTITIONS);
for (let tail = 0; tail < TEST_PARTITIONS; tail += 1) {
  TAIL_OF_CRC[crc16(Uint8Array.of(tail >> 8, tail & 0xff))] = tail;
}

/**
 * Allocates partitions in blocks. A block is claimed by creating a file in a folder that all test workers share, so
 * that two workers never get the same block.
 */
export class PartitionAllocator {
  readonly #folder: string;
  #nextBlock = RESERVED_PARTITIONS / BLOCK_SIZE;
  #free: number[] = [];

  constructor(folder: string) {
    this.#folder = folder;
  }

  /** A new flow id in a partition that was not allocated before. Throws if all partitions are allocated. */
  newFlowId(): FlowId {
    const partition = this.#free.shift();
    if (partition !== undefined) return flowIdIn(partition);
    this.#claimBlock();
    return this.newFlowId();
  }

  #claimBlock(): void {
    for (; this.#nextBlock < BLOCKS; this.#nextBlock += 1) {
      if (!createNew(join(this.#folder, String(this.#nextBlock)))) continue;
      const first = this.#nextBlock * BLOCK_SIZE;
      this.#free = Array.from({ length: BLOCK_SIZE }, (_, offset) => first + offset);
      return;
    }
    throw new Error("all partitions of this test run are allocated");
  }
}

/** A random flow id that CRC16 routes to a partition: the last two bytes are computed from the other 14. */
function flowIdIn(partition: number): FlowId {
  const head = randomUUID().slice(0, -4);
  const headCrc = crc16(Buffer.from(head.replaceAll("-", ""), "hex"));
  const tail = headCrc ^ (TAIL_OF_CRC[partition] ?? 0);
  return unwrap(parseFlowId(head + tail.toString(16).padStart(4, "0")));
}

/** Creates an empty file. False if it exists already. */
function createNew(path: string): boolean {
  try {
    closeSync(openSync(path, "wx"));
    return true;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "EEXIST") return false;
    throw error;
  }
}

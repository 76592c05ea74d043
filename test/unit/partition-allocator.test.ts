import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { ROUTER } from "#test/support/flow-fixture.ts";
import { PartitionAllocator } from "#test/support/partition-allocator.ts";

describe("the partition allocator of the tests", () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "sluice-partitions-"));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  it("never gives two flows one partition, with several workers allocating in turns", () => {
    const workers = Array.from({ length: 4 }, () => new PartitionAllocator(folder));
    const partitions = Array.from({ length: 2_000 }, (_, turn) => {
      const worker = workers[turn % workers.length];
      return worker && ROUTER.flowPartition(worker.newFlowId());
    });
    expect(new Set(partitions).size).toBe(2_000);
  });

  it("allocates no partition below 256: tests that name a partition use those", () => {
    expect(ROUTER.flowPartition(new PartitionAllocator(folder).newFlowId())).toBe(256);
  });

  it("gives each flow id a random head", () => {
    const allocator = new PartitionAllocator(folder);
    const heads = Array.from({ length: 100 }, () => allocator.newFlowId().slice(0, 13));
    expect(new Set(heads).size).toBe(100);
  });

  it("allocates up to partition 65,535, and then fails", () => {
    for (let block = 0; block < 2_047; block += 1) writeFileSync(join(folder, String(block)), "");
    const allocator = new PartitionAllocator(folder);
    const partitions = Array.from({ length: 32 }, () => ROUTER.flowPartition(allocator.newFlowId()));
    expect(partitions).toEqual(Array.from({ length: 32 }, (_, index) => 65_504 + index));
    expect(() => allocator.newFlowId()).toThrow("all partitions of this test run are allocated");
  });
});

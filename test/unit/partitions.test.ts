import { describe, expect, it } from "vitest";
import { parseExecutionId, parseFlowId, parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { crc16, DEFAULT_PARTITION_CONFIG, PartitionRouter } from "#shared/contract/partitions.ts";

function routerOf(numFlowPartitions: number): PartitionRouter {
  return new PartitionRouter({ ...DEFAULT_PARTITION_CONFIG, numFlowPartitions });
}

describe("crc16", () => {
  it("is CRC16/XMODEM", () => {
    expect(crc16(Buffer.from("123456789"))).toBe(0x31c3);
    expect(crc16(Buffer.alloc(0))).toBe(0);
  });
});

describe("PartitionRouter", () => {
  it.each([
    ["00000000-0000-0000-0000-000000000000", 0, 0, 0, 0],
    ["550e8400-e29b-41d4-a716-446655440000", 36888, 24, 24, 24],
    ["11111111-1111-1111-1111-111111111111", 20486, 6, 6, 6],
    ["f47ac10b-58cc-4372-a567-0e02b2c3d479", 42444, 204, 12, 460],
    ["01890a5d-ac96-774b-bcce-b302099a8057", 60012, 108, 44, 620],
  ])("maps flow %s to the partitions in the contract's table", (flow, crc, mod256, mod64, mod1024) => {
    const flowId = unwrap(parseFlowId(flow));
    expect(crc16(Buffer.from(flow.replaceAll("-", ""), "hex"))).toBe(crc);
    expect(routerOf(256).flowPartition(flowId)).toBe(mod256);
    expect(routerOf(64).flowPartition(flowId)).toBe(mod64);
    expect(routerOf(1024).flowPartition(flowId)).toBe(mod1024);
    expect(routerOf(256).flowPartition(unwrap(parseFlowId(flow.toUpperCase())))).toBe(mod256);
  });

  it.each([
    ["default", 86],
    ["workers-a", 193],
    ["gpu", 144],
  ])("maps lane %s to partition %i", (lane, partition) => {
    expect(routerOf(256).soloPartition(unwrap(parseLaneId(lane)))).toBe(partition);
  });

  it("maps an execution to the partition in its tag, whatever the partition count", () => {
    const id = unwrap(parseExecutionId("{fp:1023}:550e8400-e29b-41d4-a716-446655440000"));
    expect(routerOf(4).execKeys(id).core).toBe(`ff:exec:{fp:1023}:${id}:core`);
  });

  it("has the contract's defaults as its configuration", () => {
    expect(new PartitionRouter().config).toEqual({
      numFlowPartitions: 256,
      numBudgetPartitions: 32,
      numQuotaPartitions: 32,
    });
    expect(routerOf(64).numFlowPartitions).toBe(64);
  });

  it.each([0, -1, 1.5, 65_537, Number.NaN])("refuses %d partitions", (count) => {
    expect(() => routerOf(count)).toThrow(RangeError);
  });
});

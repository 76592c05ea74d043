import { randomUUID } from "node:crypto";
import { type BenchContext, type Benchmark, expectEqual } from "#bench/benchmark.ts";
import { ROUTER } from "#bench/flows.ts";
import { median, timed } from "#bench/measure.ts";
import { atMost, type Row } from "#bench/report.ts";
import { BenchServer } from "#bench/server.ts";
import { flows } from "#operate/read/flows.ts";
import { runOperation } from "#operate/run-operation.ts";
import { openServices, readOperateConfig } from "#operate/services.ts";
import { command } from "#shared/contract/command.ts";
import {
  mintExecutionId,
  parseAttemptIndex,
  parseFlowId,
  parseLaneId,
  unwrap,
} from "#shared/contract/ids.ts";
import { cancelExecution } from "#shared/contract/ownership.ts";
import {
  addExecutionToFlow,
  createExecution,
  createFlow,
  SUBMISSION_FIELDS,
} from "#shared/contract/submission.ts";
import { valueOrThrow } from "#shared/valkey/batches.ts";

const SIZES = [1_000, 100_000];
const QUICK_SIZES = [200, 600];
const ROUNDS = 7;
/** One flow of so many is still running. */
const RUNNING = 10;
const LANE = unwrap(parseLaneId("default"));
const WORKER = { workerId: "bench", instanceId: "bench-1" };
const CREATED_AT_ONCE = 500;
const RARE = "the only one";

/** Creates a flow of one execution, which has ended unless `isRunning`. */
function flowOf(name: string, isRunning: boolean) {
  const id = unwrap(parseFlowId(randomUUID()));
  const flow = ROUTER.flowKeys(id);
  const index = ROUTER.indexKeys(flow.partition);
  const keys = ROUTER.execKeys(unwrap(mintExecutionId(flow.partition, randomUUID())));
  const settings = { namespace: "bench", lane: LANE, kind: "task", priority: 0, creator: "bench" };
  const ending = { reason: "ended", source: "operator_override" };
  const target = { keys, index, lane: LANE };
  const cancelled = cancelExecution(target, WORKER, unwrap(parseAttemptIndex("0")), ending);
  return [
    createFlow(flow, index, "dag", "bench", 0),
    command(flow.partition, "hset", flow.core, SUBMISSION_FIELDS.name, name),
    createExecution({ keys, index, ...settings, policyJson: "", payload: "" }),
    addExecutionToFlow(flow, index, keys, 0),
    ...(isRunning ? [] : [cancelled]),
  ];
}

async function createFlows({ valkey }: BenchServer, size: number): Promise<void> {
  for (let made = 0; made < size; made += CREATED_AT_ONCE) {
    const count = Math.min(CREATED_AT_ONCE, size - made);
    const commands = Array.from({ length: count }, (_, position) => {
      const number = made + position;
      return flowOf(number === 0 ? RARE : `workflow ${number}`, number % RUNNING === 0);
    });
    for (const result of await valkey.pipelined(commands.flat())) valueOrThrow(result);
  }
}

async function measure({ quick, note }: BenchContext, size: number): Promise<Row> {
  note(`${size} flows`);
  await using server = await BenchServer.start();
  await createFlows(server, size);
  const services = await openServices(readOperateConfig({ VALKEY_URL: server.url.href }), (error) => {
    throw error;
  });
  using _ = { [Symbol.dispose]: () => services.close() };
  const list = (input: object) =>
    runOperation(flows, services, input, { actor: "bench", deadlineMs: Date.now() + 600_000 });
  const seen = new Set<string>();
  let page = await list({ limit: 1_000 });
  expectEqual("running flows", page.counts?.running, Math.ceil(size / RUNNING));
  expectEqual("failed flows", page.counts?.failed, size - Math.ceil(size / RUNNING));
  for (;;) {
    for (const { flow_id } of page.flows) seen.add(flow_id);
    if (page.next === undefined) break;
    page = await list({ limit: 1_000, cursor: page.next });
  }
  expectEqual("listed flows", seen.size, size);

  const { next } = await list({ limit: 50 });
  const medianOf = async (input: object, expected: number): Promise<number> => {
    const times: number[] = [];
    for (let round = 0; round < (quick ? 1 : ROUNDS); round += 1) {
      times.push(
        await timed(async () => expectEqual("flows of a page", (await list(input)).flows.length, expected)),
      );
    }
    return median(times);
  };
  return {
    what: `${size} flows`,
    figures: {
      first_page_with_counts_ms: await medianOf({ limit: 50 }, 50),
      next_page_ms: await medianOf({ limit: 50, cursor: next }, 50),
      stuck_flows_ms: await medianOf({ stuck: true, limit: 50, counts: false }, 0),
      one_name_ms: await medianOf({ name: RARE, limit: 1, counts: false }, 1),
    },
  };
}

export const listFlows: Benchmark = {
  name: "list_flows",
  measured:
    "pages of 50 flows of the operation `flows`, over 256 partitions, and the search for the oldest flow by name",
  notShown: "a network; flows with more than one execution",
  async run(context) {
    const rows: Row[] = [];
    for (const size of context.quick ? QUICK_SIZES : SIZES) rows.push(await measure(context, size));
    const [small, large] = rows.map(({ figures }) => figures.next_page_ms ?? Number.NaN);
    const growth = (large ?? Number.NaN) / (small ?? Number.NaN);
    const last = rows.pop();
    if (last !== undefined) {
      const goal = "a page of 100,000 flows takes at most 5 times as long as one of 1,000";
      rows.push({ ...last, goals: context.quick ? [] : [atMost(goal, growth, 5)] });
    }
    return rows;
  },
};

import { randomUUID } from "node:crypto";
import type { z } from "zod";
import { type BenchContext, type Benchmark, expectEqual } from "#bench/benchmark.ts";
import { ROUTER } from "#bench/flows.ts";
import { alternate, timed } from "#bench/measure.ts";
import { atMost, type Row } from "#bench/report.ts";
import { BenchServer, raise } from "#bench/server.ts";
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

const SIZES = [1_000, 100_000] as const;
const QUICK_SIZES = [500, 600] as const;
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

/** A server with flows, and the operation on it. */
async function prepare({ note }: BenchContext, size: number, resources: AsyncDisposableStack) {
  note(`${size} flows`);
  const server = resources.use(await BenchServer.start());
  await createFlows(server, size);
  const services = await openServices(readOperateConfig({ VALKEY_URL: server.url.href }), raise);
  resources.defer(() => services.close());
  const list = (input: object) =>
    runOperation(flows, services, input, { actor: "bench", deadlineMs: Date.now() + 600_000 });
  await expectAll(list, size);
  const { next } = await list({ limit: 50 });
  const took = (input: object, expected: number) => () =>
    timed(async () => expectEqual("flows of a page", (await list(input)).flows.length, expected));
  return {
    first_page_with_counts_ms: took({ limit: 50 }, 50),
    next_page_ms: took({ limit: 50, cursor: next }, 50),
    one_name_ms: took({ name: RARE, limit: 1, counts: false }, 1),
    running_ms: took({ state: "running", limit: 50, counts: false }, Math.min(50, size / RUNNING)),
  };
}

/** Expects that the pages show every flow, and the counts. */
async function expectAll(
  list: (input: object) => Promise<z.infer<typeof flows.output>>,
  size: number,
): Promise<void> {
  const seen = new Set<string>();
  let page = await list({ limit: 1_000 });
  expectEqual("running flows", page.counts?.running, size / RUNNING);
  expectEqual("failed flows", page.counts?.failed, size - size / RUNNING);
  for (;;) {
    for (const { flow_id } of page.flows) seen.add(flow_id);
    if (page.next === undefined) break;
    page = await list({ limit: 1_000, cursor: page.next });
  }
  expectEqual("listed flows", seen.size, size);
}

export const listFlows: Benchmark = {
  name: "list_flows",
  measured:
    "the operation `flows` over 256 partitions, a server of each size alternating: pages of 50 flows, and the search " +
    "for the oldest flow by its name; the best round counts",
  notShown: "a network; flows with more than one execution",
  async run(context) {
    const [small, large] = context.quick ? QUICK_SIZES : SIZES;
    await using resources = new AsyncDisposableStack();
    const sides = [
      { size: small, sides: await prepare(context, small, resources) },
      { size: large, sides: await prepare(context, large, resources) },
    ] as const;
    const rows: Row[] = sides.map(({ size }) => ({ what: `${size} flows`, figures: {} }));
    let growth = Number.NaN;
    for (const name of Object.keys(sides[0].sides) as (keyof (typeof sides)[0]["sides"])[]) {
      const best = await alternate(
        context.quick ? 1 : ROUNDS,
        { small: sides[0].sides[name], large: sides[1].sides[name] },
        (values) => Math.min(...values),
      );
      Object.assign(rows[0]?.figures ?? {}, { [name]: best.small });
      Object.assign(rows[1]?.figures ?? {}, { [name]: best.large });
      if (name === "next_page_ms") growth = best.large / best.small;
    }
    const goals = context.quick
      ? []
      : [atMost("a page of 100,000 flows takes at most 2 times as long as one of 1,000", growth, 2)];
    return rows.map((row, position) => (position === 1 ? { ...row, goals } : row));
  },
};

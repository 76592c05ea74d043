import { type Benchmark, expectEqual } from "#bench/benchmark.ts";
import { type BenchFlow, endRoots, star, submit } from "#bench/flows.ts";
import { progressCost } from "#bench/lua-progress.ts";
import { median } from "#bench/measure.ts";
import { atMost, type Row } from "#bench/report.ts";
import { BenchServer } from "#bench/server.ts";
import { command, fcall, type ValkeyCommand } from "#shared/contract/command.ts";
import { parseAttemptIndex, unwrap } from "#shared/contract/ids.ts";
import { fieldText, type TerminalOutcome } from "#shared/contract/record.ts";
import { decodeResolution, resolveDependency } from "#shared/contract/resolve.ts";
import { valueOrThrow } from "#shared/valkey/batches.ts";

/** The baseline: a function that reads one field. */
const PLAIN_LIBRARY = `#!lua name=bench
server.register_function{ function_name = 'bench_read', flags = { 'no-writes' }, callback = function(keys)
  return server.call('HGET', keys[1], 'state')
end }`;

interface LuaCase {
  readonly what: string;
  readonly commands: readonly ValkeyCommand[];
  /** The kind of each decoded reply. */
  readonly reply: "satisfied" | "impossible" | undefined;
  readonly hasGoal?: boolean;
}

/**
 * The calls for the edges of the first root to every child, as the dispatcher makes them: with the root's
 * `completed_at`, which the function compares with the root's record.
 */
async function callsOf(
  { valkey }: BenchServer,
  { plan }: BenchFlow,
  outcome: TerminalOutcome,
  { compare = true }: { readonly compare?: boolean } = {},
): Promise<ValkeyCommand[]> {
  const { flow, index, tasks } = plan;
  const root = tasks.find(({ incoming }) => incoming.length === 0);
  if (root === undefined) throw new Error("the flow has no root");
  const { partition, core } = root.keys;
  const [recorded] = await valkey.pipelined([command(partition, "hget", core, "completed_at")]);
  const completedAt = compare ? fieldText(valueOrThrow(recorded)) : "";
  return root.outgoing.map(({ edge, child }) =>
    resolveDependency(
      {
        edge: edge.id,
        upstream: edge.upstream,
        flow,
        flowIndex: index,
        child,
        lane: index.lane(root.task.lane),
        attempt: unwrap(parseAttemptIndex("0")),
      },
      { outcome, completedAt },
      Date.now(),
    ),
  );
}

async function luaCases(server: BenchServer, children: number): Promise<LuaCase[]> {
  const flow = async (options: Parameters<typeof star>[1] = {}): Promise<BenchFlow> => {
    const made = await submit(server.valkey, star(children, options));
    await endRoots(server.valkey, made, "success");
    return made;
  };
  const last = await flow();
  return [
    {
      what: "a plain FCALL of one HGET",
      commands: last.plan.tasks
        .filter(({ incoming }) => incoming.length > 0)
        .map(({ keys, incoming }) =>
          fcall(
            keys.partition,
            "bench_read",
            incoming.map(({ id }) => keys.dep(id)),
            [],
          ),
        ),
      reply: undefined,
    },
    {
      what: "satisfied, other upstreams pending",
      commands: await callsOf(server, await flow({ roots: 2 }), "success"),
      reply: "satisfied",
    },
    {
      what: "satisfied, the last one",
      commands: await callsOf(server, last, "success"),
      reply: "satisfied",
      hasGoal: true,
    },
    {
      what: "satisfied, the last one, without comparing the upstream's record",
      commands: await callsOf(server, await flow(), "success", { compare: false }),
      reply: "satisfied",
    },
    {
      what: "satisfied, the last one, with data",
      commands: await callsOf(server, await flow({ dataPassing: true }), "success"),
      reply: "satisfied",
    },
    { what: "impossible", commands: await callsOf(server, await flow(), "failed"), reply: "impossible" },
  ];
}

async function runCase(server: BenchServer, { what, commands, reply }: LuaCase): Promise<number> {
  await server.resetCommandTimes();
  for (const result of await server.valkey.pipelined(commands)) {
    if (!result.ok) throw result.error;
    if (reply === undefined) continue;
    const decoded = decodeResolution(result.value);
    if (!decoded.ok) throw decoded.error;
    expectEqual(`the reply for ${what}`, decoded.value.kind, reply);
  }
  const { calls, micros } = await server.commandTime("fcall");
  expectEqual("calls", calls, commands.length);
  return micros / calls;
}

export const lua: Benchmark = {
  name: "lua",
  measured:
    "the server's microseconds for a call of ff_resolve_dependency in five cases, alternating with a function that " +
    "only reads one field; and what counting a flow's ended members adds to a call that ends one, against the same library " +
    "without the count",
  notShown: "reading the command, writing the reply, replication, and the effect of more keys in memory",
  async run({ quick }) {
    const [children, rounds] = quick ? [50, 2] : [500, 41];
    await using server = await BenchServer.start();
    await server.client.call("FUNCTION", ["LOAD", PLAIN_LIBRARY]);
    const all = await luaCases(server, children);
    const dataset = await server.save();
    const micros = all.map((): number[] => []);
    for (let round = 0; round <= rounds; round += 1) {
      await server.restore(dataset);
      for (const [index, luaCase] of all.entries()) {
        // The baseline reads the same edges first, in every round.
        const spent = await runCase(server, luaCase);
        if (round > 0) micros[index]?.push(spent);
      }
    }
    const medians = micros.map(median);
    const plain = medians[0] ?? Number.NaN;
    const rows = all.map(({ what, hasGoal = false }, index): Row => {
      const spent = medians[index] ?? Number.NaN;
      return {
        what,
        figures: { micros: spent, times_plain: spent / plain },
        goals:
          hasGoal && !quick ? [atMost("at most 13 times a plain FCALL of one HGET", spent / plain, 13)] : [],
      };
    });
    return [...rows, ...(await progressCost(server, children, rounds, plain, quick))];
  },
};

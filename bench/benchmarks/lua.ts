import { type Benchmark, expectEqual } from "#bench/benchmark.ts";
import { median } from "#bench/measure.ts";
import { atMost, type Row } from "#bench/report.ts";
import { type BenchFlow, endRoots, star, submit } from "#bench/scenes.ts";
import { BenchServer } from "#bench/server.ts";
import { fcall, type ValkeyCommand } from "#shared/contract/command.ts";
import { parseAttemptIndex, unwrap } from "#shared/contract/ids.ts";
import type { TerminalOutcome } from "#shared/contract/record.ts";
import { decodeResolution, resolveDependency } from "#shared/contract/resolve.ts";

/** What a call of any function costs: one that reads one field. */
const PLAIN_LIBRARY = `#!lua name=bench
server.register_function{ function_name = 'bench_read', flags = { 'no-writes' }, callback = function(keys)
  return server.call('HGET', keys[1], 'state')
end }`;

interface Situation {
  readonly what: string;
  readonly commands: readonly ValkeyCommand[];
  /** What each of the replies decodes to. */
  readonly reply: "satisfied" | "impossible" | undefined;
  readonly isJudged?: boolean;
}

/** The calls for the first root's edge to every child. */
function callsOf({ plan }: BenchFlow, outcome: TerminalOutcome): ValkeyCommand[] {
  const { flow, index, tasks } = plan;
  const root = tasks.find(({ incoming }) => incoming.length === 0);
  if (root === undefined) throw new Error("the benchFlow has no root");
  return root.outgoing.map(({ edge, child }) =>
    resolveDependency(
      11,
      {
        edge: edge.id,
        upstream: edge.upstream,
        flow,
        flowIndex: index,
        child,
        lane: index.lane(root.task.lane),
        attempt: unwrap(parseAttemptIndex("0")),
      },
      outcome,
      Date.now(),
    ),
  );
}

async function situations(server: BenchServer, children: number): Promise<Situation[]> {
  const benchFlow = async (options: Parameters<typeof star>[1] = {}): Promise<BenchFlow> => {
    const made = await submit(server.valkey, star(children, options));
    await endRoots(server.valkey, made, "success");
    return made;
  };
  const last = await benchFlow();
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
      what: "satisfied, more to come",
      commands: callsOf(await benchFlow({ roots: 2 }), "success"),
      reply: "satisfied",
    },
    {
      what: "satisfied, the last one",
      commands: callsOf(last, "success"),
      reply: "satisfied",
      isJudged: true,
    },
    {
      what: "satisfied, the last one, with data",
      commands: callsOf(await benchFlow({ dataPassing: true }), "success"),
      reply: "satisfied",
    },
    { what: "impossible", commands: callsOf(await benchFlow(), "failed"), reply: "impossible" },
  ];
}

async function play(server: BenchServer, { what, commands, reply }: Situation): Promise<number> {
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
    "the server's own microseconds for a call of ff_resolve_dependency in four situations, in turns with a function " +
    "that only reads one field",
  notShown: "reading the command, writing the reply, replication, and what more keys in memory cost",
  async run({ quick }) {
    const [children, rounds] = quick ? [50, 2] : [500, 41];
    await using server = await BenchServer.start();
    await server.client.call("FUNCTION", ["LOAD", PLAIN_LIBRARY]);
    const all = await situations(server, children);
    const kept = await server.keep();
    const micros = all.map((): number[] => []);
    for (let round = 0; round <= rounds; round += 1) {
      await server.putBack(kept);
      for (const [index, situation] of all.entries()) {
        // The last one of a benchFlow is read by the plain call before it is resolved, in every round alike.
        const spent = await play(server, situation);
        if (round > 0) micros[index]?.push(spent);
      }
    }
    const medians = micros.map(median);
    const plain = medians[0] ?? Number.NaN;
    return all.map(({ what, isJudged = false }, index): Row => {
      const spent = medians[index] ?? Number.NaN;
      return {
        what,
        figures: { micros: spent, times_plain: spent / plain },
        goals:
          isJudged && !quick ? [atMost("at most 13 times a plain FCALL of one HGET", spent / plain, 13)] : [],
      };
    });
  },
};

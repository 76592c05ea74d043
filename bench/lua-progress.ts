/** What the count of a flow's ended members costs: calls that end a member, with and without the count. */

import { type BenchFlow, endRoots, star, submit } from "#bench/flows.ts";
import { median } from "#bench/measure.ts";
import { atMost, type Row } from "#bench/report.ts";
import type { BenchServer } from "#bench/server.ts";
import { librarySource } from "#lua/library.ts";
import type { ValkeyCommand } from "#shared/contract/command.ts";
import { parseAttemptIndex, unwrap } from "#shared/contract/ids.ts";
import { cancelExecution } from "#shared/contract/ownership.ts";
import { resolveDependency } from "#shared/contract/resolve.ts";
import { doneOrThrow, valueOrThrow } from "#shared/valkey/batches.ts";

const EDITION = 11;
const COUNT = /^local function count_ended_member\(.*\)$/m;
/** 1.5 µs where a plain call takes 2.6, as on the machine of NOTES.md when it is quiet. */
const MAX_TIMES_PLAIN = 0.58;
const FIRST_ATTEMPT = unwrap(parseAttemptIndex("0"));
const WORKER = { workerId: "bench", instanceId: "bench" };

/** The library, and the same library with a count that returns at once. */
function libraries(): { readonly counting: string; readonly plain: string } {
  const counting = librarySource(EDITION);
  const plain = counting.replace(COUNT, "$&\nif true then return end");
  if (plain === counting) throw new Error("the library has no count of ended members");
  return { counting, plain };
}

function cancelled({ plan }: BenchFlow): ValkeyCommand[] {
  const children = plan.tasks.filter(({ incoming }) => incoming.length > 0);
  return children.map(({ keys, task }) =>
    cancelExecution({ keys, index: plan.index, lane: task.lane }, WORKER, FIRST_ATTEMPT, {
      reason: "bench",
      source: "operator_override",
    }),
  );
}

function skipped({ plan }: BenchFlow): ValkeyCommand[] {
  const { flow, index } = plan;
  return plan.tasks.flatMap(({ outgoing, task }) =>
    outgoing.map(({ edge, child }) =>
      resolveDependency(
        {
          edge: edge.id,
          upstream: edge.upstream,
          flow,
          flowIndex: index,
          child,
          lane: index.lane(task.lane),
          attempt: FIRST_ATTEMPT,
        },
        { outcome: "failed", completedAt: "" },
        Date.now(),
      ),
    ),
  );
}

/**
 * The server's CPU time per call, with reading the command and writing the reply. Both sides include these, and unlike the
 * duration of a call it does not contain the time of other processes: the difference is small.
 */
async function microsOf(server: BenchServer, commands: readonly ValkeyCommand[]): Promise<number> {
  const before = await server.processorMicros();
  for (const result of await server.valkey.pipelined(commands)) doneOrThrow("the call", valueOrThrow(result));
  return ((await server.processorMicros()) - before) / commands.length;
}

/** The rows of the benchmark `lua` about counting. Replaces the server's data and, for a time, its library. */
export async function progressCost(
  server: BenchServer,
  children: number,
  rounds: number,
  plainCallMicros: number,
  quick: boolean,
): Promise<Row[]> {
  const { counting, plain } = libraries();
  await server.restore({ entries: [] });
  const [first, second] = [
    await submit(server.valkey, star(children)),
    await submit(server.valkey, star(children)),
  ];
  await endRoots(server.valkey, second, "failed");
  const cases = [
    { what: "counting a member that is cancelled", commands: cancelled(first), spent: spentLists() },
    { what: "counting a member that is skipped", commands: skipped(second), spent: spentLists() },
  ];
  const dataset = await server.save();
  for (let round = 0; round <= rounds; round += 1) {
    const sides = [
      { side: "counting", source: counting },
      { side: "plain", source: plain },
    ] as const;
    for (const { side, source } of round % 2 === 0 ? sides : sides.toReversed()) {
      await server.client.call("FUNCTION", ["LOAD", "REPLACE", source]);
      await server.restore(dataset);
      for (const { commands, spent } of cases) {
        const micros = await microsOf(server, commands);
        if (round > 0) spent[side].push(micros);
      }
    }
  }
  await server.client.call("FUNCTION", ["LOAD", "REPLACE", counting]);
  return cases.map(({ what, spent }): Row => {
    const [micros, without] = [median(spent.counting), median(spent.plain)];
    const timesPlain = (micros - without) / plainCallMicros;
    return {
      what,
      figures: {
        micros,
        micros_without: without,
        count_micros: micros - without,
        count_times_plain: timesPlain,
      },
      goals: quick
        ? []
        : [atMost("the count adds at most 0.58 plain FCALLs of one HGET", timesPlain, MAX_TIMES_PLAIN)],
    };
  });
}

function spentLists(): { readonly counting: number[]; readonly plain: number[] } {
  return { counting: [], plain: [] };
}

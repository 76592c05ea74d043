/** Flows run from submission to their end with nothing but Lambda workers behind their ready queues: nothing polls Valkey. */

import { expect, it } from "vitest";
import { defineTask } from "#sdk/kit/define-task.ts";
import { command } from "#shared/contract/command.ts";
import { KitBed, ROUTER } from "#test/kit/kit-bed.ts";
import { QUEUE_IMPLEMENTATIONS } from "#test/support/queue-servers.ts";

const WIDTH = 4;
const TIMEOUT_MS = 60_000;
const CASES = QUEUE_IMPLEMENTATIONS.flatMap(({ name, start }) =>
  ([11, 14] as const).map((edition) => ({
    queue: name,
    edition,
    start,
    tasks: edition === 14 ? 1_000 : 200,
  })),
);

/**
 * A root, chains of `WIDTH` tasks side by side that start from it, and a join: fan-out, chains and fan-in. The rest of the tasks
 * follow the join one after the other.
 */
function workflow(tasks: number): object {
  const chains = Math.floor((tasks - 2) / WIDTH);
  const rest = tasks - 2 - chains * WIDTH;
  const idOf = (chain: number, at: number): string => `t${chain}-${at}`;
  return {
    name: "no-poller",
    tasks: [
      { id: "root" },
      ...Array.from({ length: chains * WIDTH }, (_, n) => {
        const [chain, at] = [Math.floor(n / WIDTH), n % WIDTH];
        return { id: idOf(chain, at), dependsOn: [at === 0 ? "root" : idOf(chain, at - 1)] };
      }),
      { id: "join", dependsOn: Array.from({ length: chains }, (_, chain) => idOf(chain, WIDTH - 1)) },
      ...Array.from({ length: rest }, (_, n) => ({
        id: `end-${n}`,
        dependsOn: [n === 0 ? "join" : `end-${n - 1}`],
      })),
    ],
  };
}

it.each(CASES)(
  "a flow of $tasks tasks on $queue with the $edition-KEYS library",
  async ({ start, edition, tasks }) => {
    await using bed = await KitBed.start(["default"], { server: start, edition });
    const runs = new Map<string, number>();
    const task = defineTask({
      kind: "task",
      timeout: "20s",
      run: (_input, { executionId }) => {
        runs.set(executionId, (runs.get(executionId) ?? 0) + 1);
      },
    });
    bed.trigger(bed.lambda([task]), 60_000, 4);
    const submission = await bed.submit(workflow(tasks));
    const ids = [...submission.executions.values()];
    expect(ids).toHaveLength(tasks);
    await expect.poll(() => runs.size, { timeout: TIMEOUT_MS, interval: 50 }).toBe(tasks);
    const states = async (): Promise<string[]> => {
      const results = await bed.valkey.pipelined(
        ids.map((id) =>
          command(ROUTER.execKeys(id).partition, "hget", ROUTER.execKeys(id).core, "public_state"),
        ),
      );
      return [...new Set(results.map((result) => (result.ok ? String(result.value) : "unread")))];
    };
    await expect.poll(states, { timeout: TIMEOUT_MS, interval: 50 }).toEqual(["completed"]);
    expect([...runs.values()].every((count) => count === 1)).toBe(true);
  },
  2 * TIMEOUT_MS,
);

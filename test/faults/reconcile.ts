import type { FunctionProcess } from "#local/function-process.ts";
import { messageOf } from "#shared/errors.ts";
import type { Rig } from "#test/faults/rig.ts";
import { until } from "#test/faults/servers.ts";
import type { World } from "#test/faults/world.ts";

const GRACE_SECONDS = 1;

/** Few partitions, since a sweep visits all of them. */
export const RECONCILED = { partitions: 256 };

export function reconciler(rig: Rig): FunctionProcess {
  return rig.another("reconcile", { RECONCILE_GRACE_SECONDS: String(GRACE_SECONDS), LANES: "default" });
}

/** Waits until every end in a world is older than the grace, by the server's clock, and lets it be swept once. */
export async function sweepOnce(rig: Rig, world: World, fn: FunctionProcess): Promise<void> {
  const youngest = Math.max(...(await Promise.all(world.tasks.map(({ core }) => endOf(world, core)))));
  await until("the grace's end", async () => (await parseTime(rig)) > youngest + GRACE_SECONDS * 1_000);
  try {
    rig.note(`the reconciler: ${JSON.stringify(await fn.invoke({}))}`);
  } catch (error) {
    throw new Error(`the reconciler failed: ${messageOf(error)}`, { cause: error });
  }
}

async function endOf(world: World, core: string): Promise<number> {
  return Number(await world.read("hget", core, "completed_at"));
}

async function parseTime(rig: Rig): Promise<number> {
  const time = await rig.valkey.call("time");
  const [seconds, microseconds] = Array.isArray(time) ? time.map(Number) : [];
  return (seconds ?? Number.NaN) * 1_000 + Math.floor((microseconds ?? 0) / 1_000);
}

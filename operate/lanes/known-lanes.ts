import { readAll } from "#operate/lanes/read-all.ts";
import type { OperateContext } from "#operate/operation.ts";
import { command } from "#shared/contract/command.ts";
import { type LaneId, parseLaneId } from "#shared/contract/ids.ts";
import { LANES_KEY } from "#shared/contract/keys.ts";
import { fieldText } from "#shared/contract/record.ts";
import { type LanePause, readPauses } from "#shared/ready/paused-lanes.ts";

/** The lanes of a deployment, and what is recorded about each. */
export interface KnownLanes {
  /** In order of their names. */
  readonly names: readonly LaneId[];
  readonly pauses: ReadonlyMap<string, LanePause>;
  /** When an execution of each lane was last claimed, in milliseconds since the epoch. */
  readonly claims: ReadonlyMap<string, number>;
}

/**
 * Finds the lanes that submissions have recorded, those with a ready queue, those that are paused, and those in which something
 * was claimed. Names that are no lanes are left out. Throws a ValkeyError.
 */
export async function readKnownLanes({ valkey, router, queues }: OperateContext): Promise<KnownLanes> {
  const { partitions } = router;
  const [recorded, pauses, claimed] = await Promise.all([
    valkey.call("smembers", LANES_KEY),
    readPauses(valkey),
    readAll(
      valkey,
      partitions.map((partition) =>
        command(partition, "zrange", router.indexKeys(partition).laneClaims, 0, -1, "withscores"),
      ),
    ),
  ]);
  const claims = new Map<string, number>();
  for (const reply of claimed) {
    const texts = Array.isArray(reply) ? reply.map(fieldText) : [];
    for (let at = 0; at < texts.length; at += 2) {
      const lane = texts[at] ?? "";
      claims.set(lane, Math.max(claims.get(lane) ?? 0, Number(texts[at + 1])));
    }
  }
  const names = [
    ...(Array.isArray(recorded) ? recorded.map(fieldText) : []),
    ...queues.ready.keys(),
    ...pauses.keys(),
    ...claims.keys(),
  ].flatMap((name) => {
    const lane = parseLaneId(name);
    return lane.ok ? [lane.value] : [];
  });
  return { names: [...new Set(names)].sort(), pauses, claims };
}

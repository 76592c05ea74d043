import { setTimeout as sleep } from "node:timers/promises";
import type { SQSRecord } from "aws-lambda";
import type { Findings } from "#test/faults/judge.ts";
import type { Random } from "#test/faults/random.ts";
import type { Rig } from "#test/faults/rig.ts";
import { nameOf, type Point } from "#test/faults/steps.ts";
import { Trap } from "#test/faults/trap.ts";
import type { World } from "#test/faults/world.ts";

/** One way of breaking things. Its cases share a rig, and each has a flow of its own. */
export interface Kind {
  readonly name: string;
  /** How many cases there are, at least: in the full run, and in the quick one. */
  readonly cases: Readonly<Record<Scale, number>>;
  /** What its cases run on. */
  rig(): Promise<Rig>;
  /** Whether no case can use what another one has used. */
  readonly isRigPerCase?: boolean;
  /** Throws where the case could not be run. */
  run(context: CaseContext): Promise<Findings>;
}

export type Scale = "full" | "quick";

export interface CaseContext {
  readonly rig: Rig;
  readonly random: Random;
  /** Decides the variant, for kinds that have several: consecutive numbers take them in turn. */
  readonly number: number;
}

export type Deliver = (records: readonly SQSRecord[]) => Promise<unknown>;

const MOST_IN_BATCH = 4;
/** Nothing was worked and nothing acknowledged for so long: no redelivery will help. */
const STUCK_MS = 20_000;
/** Deliveries in a row that come to nothing, before the queue takes its time as a visibility timeout would. */
const PATIENT_AFTER = 3;
const PATIENCE_MS = 100;

/**
 * Works and delivers, in an order that the seed decides, until nothing is eligible and the queue is empty. Messages
 * that fail for ever end it too: what they were to do is found missing then.
 */
export async function drive(
  { rig, random }: Pick<CaseContext, "rig" | "random">,
  world: World,
  deliver: Deliver = (records) => rig.deliver(records),
): Promise<void> {
  let movedAt = performance.now();
  let idle = 0;
  while (performance.now() - movedAt < STUCK_MS) {
    const before = rig.acknowledged;
    let worked = random.chance(50) ? await world.work(random.between(1, 3)) : 0;
    if (worked === 0) {
      const records = await rig.receive(random.between(1, MOST_IN_BATCH));
      if (records.length > 0) await deliver(records);
      else worked = await world.work(1);
      if (records.length === 0 && worked === 0) return;
    }
    idle = worked > 0 || rig.acknowledged > before ? 0 : idle + 1;
    if (idle === 0) movedAt = performance.now();
    if (idle > PATIENT_AFTER) await sleep(PATIENCE_MS);
  }
}

export interface Fault {
  /** Where it may strike. */
  readonly points: readonly Point[];
  /** How often it strikes in a case. */
  readonly times: number;
  strike(): Promise<"pass" | "drop">;
  /** After the delivery that was struck, before anything else happens. */
  afterwards?(): Promise<void> | void;
}

/** Drives, with a fault in the first deliveries that come to one of some points. Throws where none does. */
export async function driveThrough(context: CaseContext, world: World, fault: Fault): Promise<void> {
  const { rig, random } = context;
  let struck = 0;
  await drive(context, world, async (records) => {
    if (struck === fault.times) {
      await rig.deliver(records);
      return;
    }
    const points = fault.points.filter(() => random.chance(40));
    const trap = await rig.deliverInto(new Trap(points, fault.strike), records);
    if (trap.sprung === undefined) return;
    struck += 1;
    rig.note(`struck ${nameOf(trap.sprung)}`);
    await fault.afterwards?.();
  });
  if (struck === 0) throw new Error("no delivery came to where the fault was to strike");
}

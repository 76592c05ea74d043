import { setTimeout as sleep } from "node:timers/promises";
import type { SQSRecord } from "aws-lambda";
import { Breakpoint } from "#test/faults/breakpoint.ts";
import type { Findings } from "#test/faults/findings.ts";
import type { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import type { Random } from "#test/faults/random.ts";
import { type InjectionPoint, nameOf } from "#test/faults/steps.ts";
import type { TestBed } from "#test/faults/test-bed.ts";

/** A kind of fault. Its cases share a test bed; each case has its own flow. */
export interface FaultKind {
  readonly name: string;
  /** The number of cases in the full run and in the quick run. */
  readonly cases: Readonly<Record<Scale, number>>;
  /** Starts the test bed of the cases. */
  startTestBed(): Promise<TestBed>;
  /** Whether each case needs a new test bed. */
  readonly isTestBedPerCase?: boolean;
  /** Throws an `UnsuitableCaseError` if the drawn case did not reach its fault, and any other error if it cannot be run. */
  run(context: CaseContext): Promise<Findings>;
}

export type Scale = "full" | "quick";

export interface CaseContext {
  readonly bed: TestBed;
  readonly random: Random;
  /** Selects the variant, for kinds that have several: consecutive numbers take them in turn. */
  readonly number: number;
  /** Records an injection point at which the case injected its fault. */
  readonly onReached: (point: string) => void;
  /** Prints a line in the report of the run, for results that are expected and not findings. */
  readonly report: (line: string) => void;
}

export type Deliver = (records: readonly SQSRecord[]) => Promise<unknown>;

const MAX_IN_BATCH = 4;
/**
 * Without progress for this long, redelivery is given up: the missing results are reported as lost. Longer than twice the
 * function's timeout: until then, a child is claimed whose send had no answer.
 */
const STUCK_MS = 45_000;
/** After this many deliveries in a row without progress, each redelivery is delayed. */
const DELAY_AFTER = 3;
const REDELIVERY_DELAY_MS = 100;

/** The drawn case cannot show what its kind is about, so the runner draws another one from the same seed. */
export class UnsuitableCaseError extends Error {
  override readonly name = "UnsuitableCaseError";
}

/**
 * Runs workers and delivers messages, in an order that the seed decides, until no task is eligible and the queue is
 * empty. Also returns when nothing progresses any more.
 */
export async function runToEnd(
  { bed, random }: Pick<CaseContext, "bed" | "random">,
  flow: FlowUnderTest,
  deliver: Deliver = (records) => bed.deliver(records),
): Promise<void> {
  let movedAt = performance.now();
  let idle = 0;
  while (performance.now() - movedAt < STUCK_MS) {
    const before = bed.acknowledged;
    let worked = random.chance(50) ? await flow.work(random.between(1, 3)) : 0;
    if (worked === 0) {
      const records = await bed.receive(random.between(1, MAX_IN_BATCH));
      if (records.length > 0) await deliver(records);
      else worked = await flow.work(1);
      if (records.length === 0 && worked === 0) return;
    }
    idle = worked > 0 || bed.acknowledged > before ? 0 : idle + 1;
    if (idle === 0) movedAt = performance.now();
    if (idle > DELAY_AFTER) await sleep(REDELIVERY_DELAY_MS);
  }
}

export interface Fault {
  /** Where it may be injected. */
  readonly points: readonly InjectionPoint[];
  /** How often it is injected in a case. */
  readonly times: number;
  /** Injects the fault. `drop` closes the connection. */
  inject(): Promise<"pass" | "drop">;
  /** Runs after the delivery in which the fault was injected, before anything else happens. */
  afterwards?(): Promise<void> | void;
}

/** As `runToEnd`, and injects a fault into the first deliveries that reach one of its points. */
export async function runToEndWithFault(
  context: CaseContext,
  flow: FlowUnderTest,
  fault: Fault,
): Promise<void> {
  const { bed, random } = context;
  let injected = 0;
  await runToEnd(context, flow, async (records) => {
    if (injected === fault.times) {
      await bed.deliver(records);
      return;
    }
    const points = fault.points.filter(() => random.chance(40));
    const breakpoint = await bed.deliverWithBreakpoint(new Breakpoint(points, fault.inject), records);
    if (breakpoint.hitAt === undefined) return;
    injected += 1;
    context.onReached(nameOf(breakpoint.hitAt));
    bed.note(`fault injected ${nameOf(breakpoint.hitAt)}`);
    await fault.afterwards?.();
  });
  if (injected === 0) throw new UnsuitableCaseError("no delivery reached an injection point");
}

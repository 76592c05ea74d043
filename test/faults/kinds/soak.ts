/** A small soak without tasks that kill their workers. `npm run test:soak` runs the full size. */

import { type FaultKind, UnsuitableCaseError } from "#test/faults/case.ts";
import { soak as runSoak, startSoakBed } from "#test/faults/soak.ts";

const SIZE = { flows: 10, executions: 200, workers: 2, poison: 0 };

export const soak: FaultKind = {
  name: "soak",
  cases: { full: 3, quick: 1 },
  startTestBed: startSoakBed,
  isTestBedPerCase: true,
  run: async ({ bed, random, report }) => {
    const { findings, counts } = await runSoak(bed, random, SIZE);
    if (counts.kills === 0) throw new UnsuitableCaseError("no worker was killed while it worked");
    report(JSON.stringify(counts));
    return findings;
  },
};

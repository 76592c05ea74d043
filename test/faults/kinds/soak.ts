/** A small soak. `npm run test:soak` runs the full size. */

import type { FaultKind } from "#test/faults/case.ts";
import { soak as runSoak, startSoakBed } from "#test/faults/soak.ts";

const SIZE = { flows: 12, executions: 240, workers: 2, poison: 1 };

export const soak: FaultKind = {
  name: "soak",
  cases: { full: 3, quick: 1 },
  startTestBed: startSoakBed,
  isTestBedPerCase: true,
  run: async ({ bed, random, report }) => {
    const { findings, counts } = await runSoak(bed, random, SIZE);
    report(JSON.stringify(counts));
    return findings;
  },
};

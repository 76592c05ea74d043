/** Workflows to try, in Sluice's own format. */

import nightlyReport from "../examples/nightly-report.json" with { type: "json" };

export interface Sample {
  readonly title: string;
  readonly text: string;
  /** The text of a workflow file. */
  readonly workflow: string;
}

interface SampleTask {
  readonly id: string;
  readonly dependsOn?: readonly string[];
}

const PHOTOS = 8;
const STEPS = ["fetch", "resize", "sharpen", "tag", "store"];
const LAYERS = 40;
const PER_LAYER = 50;

function photoPipeline(): SampleTask[] {
  const numbers = Array.from({ length: PHOTOS }, (_, index) => index + 1);
  const tasks = numbers.flatMap((number) =>
    STEPS.map(
      (step, at): SampleTask => ({
        id: `${step}-${number}`,
        dependsOn: [at === 0 ? "list-photos" : `${STEPS[at - 1]}-${number}`],
      }),
    ),
  );
  return [
    { id: "list-photos" },
    ...tasks,
    { id: "contact-sheet", dependsOn: numbers.map((number) => `sharpen-${number}`) },
    { id: "publish", dependsOn: [...numbers.map((number) => `store-${number}`), "contact-sheet"] },
  ];
}

function largeGraph(): SampleTask[] {
  return Array.from({ length: LAYERS * PER_LAYER }, (_, index) => {
    const [layer, place] = [Math.floor(index / PER_LAYER), index % PER_LAYER];
    const above = (offset: number): string => `step-${layer}-${(place + offset + PER_LAYER) % PER_LAYER}`;
    return {
      id: `step-${layer + 1}-${place}`,
      ...(layer === 0 ? {} : { dependsOn: [...new Set([above(0), above((layer % 7) + 1)])] }),
    };
  });
}

const withName = (name: string, tasks: readonly SampleTask[]): string => JSON.stringify({ name, tasks });

export const SAMPLES: readonly Sample[] = [
  {
    title: "Nightly report",
    text: "12 tasks: the example of the README",
    workflow: JSON.stringify(nightlyReport),
  },
  {
    title: "Photo pipeline",
    text: "43 tasks: a fan-out of 8 chains, and two joins",
    workflow: withName("photo-pipeline", photoPipeline()),
  },
  {
    title: "2,000 tasks",
    text: "40 layers of 50",
    workflow: withName("two-thousand-tasks", largeGraph()),
  },
];

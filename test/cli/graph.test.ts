import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { submit } from "#operate/write/submit.ts";
import { environmentFor, parseOutput, sluice } from "#test/cli/support.ts";
import { type OperationRunner, operationRunner } from "#test/operate/support.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

const REPORT = {
  name: "report",
  tasks: [
    { id: "fetch" },
    ...Array.from({ length: 2_000 }, (_, n) => ({ id: `clean-${n}`, kind: "clean", dependsOn: ["fetch"] })),
    { id: "publish", dependsOn: ["clean-0", "clean-1"] },
  ],
};

describe.each(DEPLOYMENTS)("sluice graph on $name", (deployment) => {
  const environment = environmentFor(deployment);
  let runner: OperationRunner;
  let flow: string;

  beforeAll(async () => {
    runner = await operationRunner(deployment);
    ({ flow_id: flow } = await runner.run(submit, { workflow: JSON.stringify(REPORT) }));
  });
  afterAll(() => runner[Symbol.dispose]());

  it("shows 2,002 executions as a tree of four lines", async () => {
    const { code, stdout } = await sluice(["graph", flow], { environment });
    expect(code).toBe(0);
    expect(stdout).toBe(`\
report: 2,002 executions, flow ${flow}
1 waiting for a worker, 2,001 waiting for dependencies

… fetch                      waiting for a worker
├─ … clean-0 and 1998 alike  waiting for dependencies
└─ … clean-1                 waiting for dependencies
   └─ … publish              waiting for dependencies (also depends on clean-0)
`);
  });

  it("draws a flowchart and an image with counts in place of alike siblings", async () => {
    const flowchart = await sluice(["graph", flow, "--format", "mermaid"], { environment });
    expect(flowchart.stdout.split("\n").slice(3, 9)).toEqual([
      "flowchart LR",
      '  n0["… clean-0<br>waiting for dependencies, clean"]',
      '  n1["… clean-1<br>waiting for dependencies, clean"]',
      '  n2["… clean-2 + 1,997 alike<br>waiting for dependencies, clean"]',
      '  n3["… fetch<br>waiting for a worker"]',
      '  n4["… publish<br>waiting for dependencies"]',
    ]);
    const image = await sluice(["graph", flow, "--format", "svg"], { environment });
    expect(image.stdout).toContain(">… clean-2 + 1,997 alike</text>");
    expect(image.stdout.endsWith("</svg>\n")).toBe(true);
  });

  it("prints all pages as one with --json", async () => {
    const { code, stdout } = await sluice(["graph", flow, "--json"], { environment });
    expect(code).toBe(0);
    const output = parseOutput("graph", stdout);
    expect(output).toMatchObject({ flow_id: flow, name: "report", nodes: { length: 2_002 } });
    expect(output.next).toBeUndefined();
    const nodes: { execution_id: string; task: string; downstream: string[] }[] = output.nodes;
    const idOf = (task: string) => nodes.find((node) => node.task === task)?.execution_id;
    expect(nodes.find(({ task }) => task === "clean-1")?.downstream).toEqual([idOf("publish")]);
    expect(nodes.find(({ task }) => task === "fetch")?.downstream).toHaveLength(2_000);
  });

  it("says that a flow does not exist, or that an id is none", async () => {
    const missing = randomUUID();
    const unknown = await sluice(["graph", missing], { environment });
    expect(unknown).toMatchObject({ code: 2, stdout: "" });
    expect(unknown.stderr).toContain(`the flow ${missing} does not exist`);
    expect(await sluice(["graph", "nightly"], { environment })).toMatchObject({ code: 2 });
  });
});

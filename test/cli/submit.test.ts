import { randomUUID } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { complete, fail } from "#operate/write/end.ts";
import { parseFlowId, unwrap } from "#shared/contract/ids.ts";
import { environmentFor, parseOutput, sluice } from "#test/cli/support.ts";
import { operationRunner } from "#test/operate/support.ts";
import { DEPLOYMENTS, run } from "#test/support/valkey.ts";

const REPORT = {
  name: "report",
  tasks: [
    { id: "fetch", lane: "io" },
    { id: "clean", dependsOn: ["fetch"] },
    { id: "publish", dependsOn: ["clean"] },
  ],
};
/** WfFormat 1.5, as workflow generators write it. */
const RECORDED = {
  name: "recorded",
  schemaVersion: "1.5",
  workflow: {
    specification: {
      tasks: [
        { name: "split", id: "split_1", parents: [], children: ["map_1"] },
        { name: "map", id: "map_1", parents: ["split_1"], children: [] },
      ],
    },
  },
};

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "sluice-submit-"));
});
afterAll(() => rm(folder, { recursive: true }));

async function fileOf(content: unknown): Promise<string> {
  const file = join(folder, `${randomUUID()}.json`);
  await writeFile(file, typeof content === "string" ? content : JSON.stringify(content));
  return file;
}

describe.each(DEPLOYMENTS)("sluice submit on $name", (deployment) => {
  // No message is sent: a root is announced only in lanes with a ready queue.
  const environment = {
    ...environmentFor(deployment),
    COMPLETIONS_QUEUE_URL: "http://127.0.0.1:9/000000000000/completions",
  };
  const graphOf = (flow: string) => sluice(["graph", flow], { environment });

  it.each([
    [
      "Sluice's JSON",
      REPORT,
      {
        name: "report",
        tasks: 3,
        edges: 2,
        lanes: [
          { lane: "io", tasks: 1 },
          { lane: "default", tasks: 2 },
        ],
      },
    ],
    ["WfFormat", RECORDED, { name: "recorded", tasks: 2, edges: 1, lanes: [{ lane: "default", tasks: 2 }] }],
  ])("submits %s", async (_, workflow, expected) => {
    const { code, stdout } = await sluice(["submit", await fileOf(workflow), "--yes", "--json"], {
      environment,
    });
    expect(code).toBe(0);
    const output = parseOutput("submit", stdout);
    expect(output).toMatchObject({ ...expected, dry_run: false, warnings: [] });
    expect((await graphOf(output.flow_id)).stdout).toContain(
      `${expected.name}: ${expected.tasks} executions`,
    );
  });

  it("submits one flow, however often it is repeated with its id, and refuses another workflow", async () => {
    const flow = randomUUID();
    const file = await fileOf(REPORT);
    const submitAgain = () => sluice(["submit", file, "--yes", "--flow", flow], { environment });
    const first = await submitAgain();
    expect(first).toMatchObject({ code: 0, stderr: "" });
    expect(first.stdout).toBe(`\
report: 3 tasks, 2 edges, flow ${flow}
needs workers of 2 lanes: io (1 task), default (2 tasks)
see it with: sluice status ${flow}
`);
    expect(await submitAgain()).toEqual(first);
    const { nodes } = parseOutput("graph", (await sluice(["graph", flow, "--json"], { environment })).stdout);
    expect(nodes).toHaveLength(3);
    const other = await sluice(["submit", await fileOf(RECORDED), "--yes", "--flow", flow], { environment });
    expect(other).toMatchObject({ code: 2, stdout: "" });
    expect(other.stderr).toContain(`flow ${flow} belongs to another workflow`);
  });

  it("a dry run shows what would be submitted, and submits nothing", async () => {
    const flow = randomUUID();
    const dry = await sluice(["submit", await fileOf(REPORT), "--dry-run", "--flow", flow], { environment });
    expect(dry).toMatchObject({
      code: 0,
      stdout:
        "dry run: report is valid: 3 tasks, 2 edges\nneeds workers of 2 lanes: io (1 task), default (2 tasks)\n",
    });
    expect((await graphOf(flow)).stderr).toContain("does not exist");
  });

  it("asks, and submits nothing unless the answer is yes", async () => {
    const file = await fileOf(REPORT);
    const [yes, no] = [randomUUID(), randomUUID()];
    expect(await sluice(["submit", file, "--flow", no], { environment, answer: "no" })).toMatchObject({
      code: 0,
      stdout: "",
      questions: ["Submit it?"],
    });
    expect((await graphOf(no)).code).toBe(2);
    await sluice(["submit", file, "--flow", yes], { environment, answer: "yes" });
    expect((await graphOf(yes)).code).toBe(0);
    const silent = await sluice(["submit", file], { environment });
    expect(silent).toMatchObject({ code: 2, stdout: "" });
    expect(silent.stderr).toContain("--yes");
  });

  it("lists every error of the file, and refuses what is no file or no flow id", async () => {
    const file = await fileOf({ name: "x", tasks: [{ id: "a", dependsOn: ["b"] }, { id: "a" }] });
    const invalid = await sluice(["submit", file, "--yes"], { environment });
    expect(invalid).toMatchObject({ code: 2, stdout: "" });
    expect(invalid.stderr.match(new RegExp(file, "g"))?.length).toBeGreaterThanOrEqual(2);
    const missing = await sluice(["submit", join(folder, "missing.json"), "--yes"], { environment });
    expect(missing).toMatchObject({ code: 2 });
    expect(missing.stderr).toContain("the workflow cannot be read: ENOENT");
    const named = await sluice(["submit", await fileOf(REPORT), "--yes", "--flow", "nightly"], {
      environment,
    });
    expect(named).toMatchObject({ code: 2 });
  });

  it("names the flow id under which a submission that failed can be repeated", async () => {
    const file = await fileOf(REPORT);
    const flow = randomUUID();
    using runner = await operationRunner(deployment);
    const { valkey, router } = runner.services;
    const { partition, members } = router.flowKeys(unwrap(parseFlowId(flow)));
    // The submission creates the flow's record, and fails when it adds the first member.
    await run(valkey, partition, "set", members, "not a set");
    const failed = await sluice(["submit", file, "--yes", "--flow", flow], { environment });
    expect(failed.code).toBe(1);
    expect(failed.stderr).toContain(`sluice: it is safe to repeat: sluice submit ${file} --flow ${flow}\n`);
    await run(valkey, partition, "del", members);
    expect(await sluice(["submit", file, "--yes", "--flow", flow], { environment })).toMatchObject({
      code: 0,
    });
  });

  describe("with --watch", () => {
    const APPROVAL = { name: "approval", tasks: [{ id: "approve" }] };

    it.each([
      [complete, "completed", 0, "approval has completed. 1 of 1 ended: 1 completed"],
      [fail, "failed", 1, "approval has ended: failed. 1 of 1 ended: 1 failed"],
    ] as const)("shows each change until the flow has ended", async (operation, state, code, text) => {
      using runner = await operationRunner(deployment);
      const flow = randomUUID();
      const args = ["submit", await fileOf(APPROVAL), "--yes", "--watch", "--flow", flow];
      const ended: Promise<unknown>[] = [];
      const watched = await sluice(args, {
        environment,
        onNote: (line) => {
          // The first look at the flow: now its task ends.
          if (line.startsWith("0 of 1 ended")) ended.push(runner.run(operation, { flow }));
        },
      });
      await Promise.all(ended);
      expect(watched.code).toBe(code);
      expect(watched.stdout).toBe(`${text}\nsee it with: sluice graph ${flow}\n`);
      expect(watched.stderr.split("\n").slice(-3, -1)).toEqual([
        "0 of 1 ended: 1 waiting for a worker",
        `1 of 1 ended: 1 ${state}`,
      ]);
      const again = await sluice([...args, "--json"], { environment });
      expect(again.code).toBe(code);
      expect(parseOutput("submit", again.stdout)).toMatchObject({
        flow_id: flow,
        end: { state, members: { total: 1, [state]: 1 } },
      });
    });

    it("ends at Ctrl-C, leaves the flow running, and says how to watch it again", async () => {
      const flow = randomUUID();
      const file = await fileOf(APPROVAL);
      const stop = new AbortController();
      const { code, stderr, stdout } = await sluice(["submit", file, "--yes", "--watch", "--flow", flow], {
        environment,
        signal: stop.signal,
        onNote: (line) => {
          if (line.startsWith("0 of 1 ended")) stop.abort(new Error("SIGINT"));
        },
      });
      expect({ code, stdout }).toEqual({ code: 130, stdout: "" });
      expect(stderr).toContain(`sluice submit ${file} --flow ${flow} --watch --yes\n`);
      expect((await graphOf(flow)).stdout).toContain("1 waiting for a worker");
    });
  });
});

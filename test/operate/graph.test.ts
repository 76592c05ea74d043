import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { audit } from "#operate/read/audit.ts";
import { execution } from "#operate/read/execution.ts";
import { graph } from "#operate/read/graph.ts";
import { submit } from "#operate/write/submit.ts";
import { parseFlowId, unwrap } from "#shared/contract/ids.ts";
import { type OperationRunner, operationRunner } from "#test/operate/support.ts";
import { DEPLOYMENTS, run } from "#test/support/valkey.ts";

const DIAMOND = {
  name: "diamond",
  tasks: [
    { id: "a", payload: { rows: "ä".repeat(4_000) } },
    { id: "b", kind: "build", dependsOn: ["a"] },
    { id: "c", dependsOn: ["a"] },
    { id: "d", dependsOn: ["b", "c"] },
  ],
};

describe.each(DEPLOYMENTS)("submit, graph and execution on $name", (deployment) => {
  let runner: OperationRunner;

  beforeAll(async () => {
    runner = await operationRunner(deployment);
  });
  afterAll(() => runner[Symbol.dispose]());

  const submitted = async (workflow: object) =>
    runner.run(submit, { workflow: JSON.stringify(workflow), source: "diamond.json", reason: "a test" });

  /** The graph as task ids, from all pages. */
  const readGraph = async (flow: string) => {
    const pages = [];
    let cursor: string | undefined;
    do {
      const page = await runner.run(graph, { flow, ...(cursor === undefined ? {} : { cursor }) });
      pages.push(page);
      cursor = page.next;
    } while (cursor !== undefined);
    const nodes = pages.flatMap((page) => page.nodes);
    const tasks = new Map(nodes.map((node) => [node.execution_id, node.task]));
    return {
      pages,
      nodes,
      edges: nodes
        .flatMap(({ task, downstream = [] }) => downstream.map((id) => `${task}>${tasks.get(id)}`))
        .sort(),
      idOf: (task: string) => nodes.find((node) => node.task === task)?.execution_id,
    };
  };

  test("the graph has each task with its name and state, and each edge", async () => {
    const { flow_id: flow, tasks, edges } = await submitted(DIAMOND);
    expect({ tasks, edges }).toEqual({ tasks: 4, edges: 4 });
    const read = await readGraph(flow);
    expect(read.pages[0]).toMatchObject({ flow_id: flow, name: "diamond", revision: expect.any(Number) });
    expect(read.edges).toEqual(["a>b", "a>c", "b>d", "c>d"]);
    const states = read.nodes.map(({ task, kind, state }) => `${task} ${kind} ${state}`).sort();
    expect(states).toEqual([
      "a task waiting",
      "b build waiting_children",
      "c task waiting_children",
      "d task waiting_children",
    ]);
    const { nodes } = await runner.run(graph, { flow, states_only: true });
    expect(nodes.every((node) => node.downstream === undefined)).toBe(true);
    expect(nodes.map(({ task }) => task).sort()).toEqual(["a", "b", "c", "d"]);
  });

  test("an execution has its record, its edges with names and states, and a shortened payload", async () => {
    const { flow_id: flow } = await submitted(DIAMOND);
    const { idOf } = await readGraph(flow);
    const first = await runner.run(execution, { execution: idOf("a") });
    expect(first).toMatchObject({
      task: "a",
      record: { flow_id: flow, public_state: "waiting", lane_id: "default" },
      upstream: { count: 0, items: [] },
      attempts: { count: 0, items: [] },
      payload: { bytes: JSON.stringify(DIAMOND.tasks[0]?.payload).length + 4_000 },
      result: { text: "", bytes: 0 },
    });
    expect(Buffer.byteLength(first.payload.text)).toBeLessThanOrEqual(4_100);
    expect(first.downstream.items).toEqual([
      { execution: idOf("b"), task: "b", state: "waiting_children", edge_state: "unsatisfied" },
      { execution: idOf("c"), task: "c", state: "waiting_children", edge_state: "unsatisfied" },
    ]);
    const last = await runner.run(execution, { execution: idOf("d") });
    expect(last.upstream.items.map(({ task }) => task)).toEqual(["b", "c"]);
  });

  test("attempts are shown, the newest first", async () => {
    const { flow_id: flow } = await submitted(DIAMOND);
    const { idOf } = await readGraph(flow);
    const { valkey, router } = runner.services;
    const id = idOf("a") ?? "";
    const partition = router.flowPartition(unwrap(parseFlowId(flow)));
    for (const [index, reason] of ["first", "second"].entries()) {
      await run(valkey, partition, "zadd", `ff:exec:{fp:${partition}}:${id}:attempts`, index, index);
      await run(
        valkey,
        partition,
        "hset",
        `ff:attempt:{fp:${partition}}:${id}:${index}`,
        "failure_reason",
        reason,
      );
    }
    const { attempts } = await runner.run(execution, { execution: id });
    expect(attempts).toEqual({
      count: 2,
      items: [{ failure_reason: "second" }, { failure_reason: "first" }],
    });
  });

  test("a graph of 2,500 tasks comes in pages, and a page ends before its edges become too many", async () => {
    // 60 upstreams of 400 downstreams each: 24,000 edges.
    const tops = Array.from({ length: 60 }, (_, n) => ({ id: `top${n}` }));
    const dependsOn = tops.map(({ id }) => id);
    const middle = Array.from({ length: 400 }, (_, n) => ({ id: `mid${n}`, dependsOn }));
    const rest = Array.from({ length: 2_040 }, (_, n) => ({ id: `rest${n}` }));
    const { flow_id: flow } = await submitted({ name: "wide", tasks: [...tops, ...middle, ...rest] });
    const { nodes, edges, pages } = await readGraph(flow);
    expect(nodes.length).toBe(2_500);
    expect(new Set(nodes.map(({ task }) => task)).size).toBe(2_500);
    expect(edges.length).toBe(24_000);
    expect(Math.max(...pages.map((page) => JSON.stringify(page).length))).toBeLessThan(3_000_000);
  });

  test("submit is recorded in the audit trail; a dry run and an invalid workflow submit nothing", async () => {
    const source = `${randomUUID()}.json`;
    const workflow = JSON.stringify(DIAMOND);
    const dry = await runner.run(submit, { workflow, source, dry_run: true });
    expect(dry).toMatchObject({ dry_run: true, name: "diamond", tasks: 4, edges: 4 });
    await expect(runner.run(graph, { flow: dry.flow_id })).rejects.toThrow("does not exist");
    await expect(
      runner.run(submit, {
        workflow: '{"name":"x","tasks":[{"id":"a","dependsOn":["b"]}]}',
        source,
        dry_run: true,
      }),
    ).rejects.toThrow(source);
    const { entries } = await runner.run(audit, { limit: 1_000 });
    expect(entries.filter(({ target }) => target === source)).toEqual([]);
    await runner.run(submit, { workflow, source, reason: "a test" });
    const after = await runner.run(audit, { limit: 1_000 });
    expect(after.entries.filter(({ target }) => target === source)).toMatchObject([
      { operation: "submit", actor: "test@machine", reason: "a test" },
    ]);
  });

  test("ids that are none, and those of nothing, are refused with a reason", async () => {
    await expect(runner.run(graph, { flow: "nightly" })).rejects.toThrow("flow id");
    await expect(runner.run(graph, { flow: randomUUID() })).rejects.toThrow("does not exist");
    await expect(runner.run(execution, { execution: "a" })).rejects.toThrow("execution id");
    await expect(runner.run(execution, { execution: `{fp:1}:${randomUUID()}` })).rejects.toThrow(
      "does not exist",
    );
    await expect(runner.run(graph, { flow: randomUUID(), cursor: "x" })).rejects.toThrow(
      "cursor is malformed",
    );
  });
});

import { beforeAll, describe, expect, it } from "vitest";
import type { Environment } from "#shared/runtime/environment.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { parseOutput, sluice } from "#test/cli/support.ts";
import {
  ageEnd,
  BED_ROUTER,
  dispatchQueued,
  submitOn,
  useTroubledServers,
} from "#test/operate/explain/bed.ts";
import { dispatchOne, eventOf, portsOf } from "#test/support/dispatch.ts";
import { SERVER_KINDS } from "#test/support/reconcile.ts";
import { onEveryPrimary } from "#test/support/valkey.ts";

describe.each(SERVER_KINDS)("sluice explain (%s)", (kind) => {
  const servers = useTroubledServers(kind);
  let environment: Environment = {};

  beforeAll(async () => {
    const { address, queue } = servers();
    // The AWS SDK reads the process's environment.
    Object.assign(process.env, queue.queue.environment);
    environment = {
      VALKEY_URL: address.url.href,
      VALKEY_CLUSTER_MODE: String(address.cluster),
      COMPLETIONS_QUEUE_URL: queue.queue.queueUrl,
      DEAD_LETTER_QUEUE_URL: queue.queue.deadLetterQueueUrl,
    };
  });

  it("prints every cause as JSON, and exits with 1 for a problem", async () => {
    const flow = await submitOn(servers(), ["a>c", "b>c"]);
    await flow.fixture.finish(flow.keys("a"), "success");
    await ageEnd(flow.fixture, flow.keys("a"));
    const { code, stdout } = await sluice(["explain", flow.keys("c").id, "--json"], { environment });
    expect(code).toBe(1);
    const output = parseOutput("explain", stdout);
    expect(output).toMatchObject({
      execution_id: flow.keys("c").id,
      exists: true,
      record: { task: "c", public_state: "waiting_children", flow_name: "test" },
      causes: [{ code: "completion_missing" }, { code: "upstream_not_ended" }],
      edges: { staged: 2, applied: 2, unresolved: 2 },
    });
    expect(output.next[0]).toBe(`sluice publish '${flow.keys("a").id}' --dry-run`);
  });

  it("tells a person why an execution was skipped", async () => {
    const flow = await submitOn(servers(), ["fetch>clean", "clean>report"]);
    await flow.fixture.finish(flow.keys("fetch"), "failed");
    const ports = portsOf(servers().valkey, servers().queue, { router: BED_ROUTER });
    await dispatchOne(ports, eventOf(flow.keys("fetch").id, flow.fixture.flow.id));
    await dispatchQueued(servers());
    const { code, stdout } = await sluice(["explain", flow.keys("report").id], { environment });
    expect(code).toBe(1);
    const lines = stdout.split("\n");
    const [fetch, clean, report] = ["fetch", "clean", "report"].map((task) => flow.keys(task).id);
    expect(lines[0]).toBe(`report  ${report}`);
    expect(lines.filter((line) => line.startsWith("  ← "))).toEqual([
      `  ← clean  ${clean}  skipped`,
      `  ← fetch  ${fetch}  failed: it broke`,
    ]);
    expect(stdout).toContain("problem: skipped\n");
    expect(stdout).toMatch(/\nNext\n {2}sluice replay '.*' --descendants --dry-run\n/);
  });

  it("exits with 0 for an execution that waits as designed", async () => {
    const flow = await submitOn(servers(), ["a>b"]);
    const { code, stdout } = await sluice(["explain", flow.keys("b").id], { environment });
    expect(code).toBe(0);
    expect(stdout).toContain(
      "info: upstream_not_ended\n  1 upstream has not ended: waiting, it waits for a worker.\n",
    );
    expect(stdout).toContain(`    a  ${flow.keys("a").id}\n`);
    expect(stdout).toContain("Incoming edges: 1, 1 unresolved\n");
  });

  it("works where the partition count is wrong", async () => {
    const flow = await submitOn(servers(), ["a>b"]);
    const { code, stdout } = await sluice(["explain", flow.keys("b").id], {
      environment: { ...environment, FLOW_PARTITIONS: "128" },
    });
    expect(code).toBe(1);
    expect(stdout).toContain("problem: partition_count_mismatch");
  });

  it("works where the library is missing", async () => {
    const flow = await submitOn(servers(), ["a>b"]);
    await onEveryPrimary(servers().valkey, "function", "FLUSH", "SYNC");
    try {
      const { code, stdout } = await sluice(["explain", flow.keys("b").id], { environment });
      expect(code).toBe(1);
      expect(stdout).toContain("problem: library_missing");
      expect(stdout).toContain("info: upstream_not_ended");
    } finally {
      await ensureLibrary(servers().valkey, 14);
    }
  });

  it("says of an unknown execution that it does not exist", async () => {
    const { code, stdout } = await sluice(["explain", "{fp:3}:550e8400-e29b-41d4-a716-446655440000"], {
      environment,
    });
    expect(code).toBe(1);
    expect(stdout).toContain("problem: execution_not_found");
  });

  it("finds an execution by its flow and the id of its task, and refuses half a name", async () => {
    const flow = await submitOn(servers(), ["a>b"]);
    const { id } = flow.fixture.flow;
    const named = await sluice(["explain", "--flow", id, "--task", "b", "--json"], { environment });
    expect(parseOutput("explain", named.stdout)).toMatchObject({
      execution_id: flow.keys("b").id,
      record: { task: "b" },
    });
    for (const args of [
      [],
      ["--flow", id],
      ["--task", "b"],
      [flow.keys("b").id, "--flow", id, "--task", "b"],
    ]) {
      const { code, stderr } = await sluice(["explain", ...args], { environment });
      expect(code).toBe(2);
      expect(stderr).toBe("sluice: name one execution: by its id, or by its flow and the id of its task\n");
    }
  });

  it("refuses a malformed id", async () => {
    const { code, stderr } = await sluice(["explain", "550e8400"], { environment });
    expect(code).toBe(2);
    expect(stderr).toBe('sluice: execution: expected an execution id like {fp:N}:<uuid>, found "550e8400"\n');
  });
});

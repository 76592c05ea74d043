import { describe, expect, it } from "vitest";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { sweep } from "#shared/reconcile/sweep.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { stateOf } from "#test/support/dispatch.ts";
import { expectOnlyIn } from "#test/support/expectations.ts";
import {
  MINUTE_MS,
  SERVER_KINDS,
  type SubmittedFlow,
  useReconcilerServers,
} from "#test/support/reconcile.ts";
import { onEveryPrimary } from "#test/support/valkey.ts";

/** Removes all unresolved edges of a child but leaves it blocked, as a crashed engine may have. */
async function removeEdges({ fixture }: SubmittedFlow, child: ExecKeys): Promise<void> {
  await fixture.read("del", child.depsUnresolved);
  const changed = Date.now() - MINUTE_MS;
  await fixture.read(
    "hset",
    child.depsMeta,
    "unsatisfied_required_count",
    0,
    "last_dependency_update_at",
    changed,
  );
}

describe.each(SERVER_KINDS)("blocked executions without unresolved edges (%s)", (kind) => {
  const servers = useReconcilerServers(kind);

  it("are promoted once", async () => {
    const flow = await servers().submit("up>child", "up>other");
    const child = flow.keys("child");
    await removeEdges(flow, child);
    const ports = servers().ports([flow]);
    expect(await sweep(ports)).toMatchObject({ state: "complete", promoted: 1, refused: 0, repaired: 0 });
    expect(await stateOf(flow.fixture, child)).toBe("waiting");
    await expectOnlyIn(flow.fixture, child, "eligible");
    expect(await stateOf(flow.fixture, flow.keys("other"))).toBe("waiting_children");
    expect(ports.telemetry.counts.get(METRICS.executionsPromoted)).toBe(1);
    const age = ports.telemetry.gauges.get(METRICS.oldestResolvableAge);
    expect(age).toBeGreaterThanOrEqual(60);
    expect(age).toBeLessThan(90);
    expect(await sweep(servers().ports([flow]))).toMatchObject({ promoted: 0, scanned: 1 });
  });

  it("are not promoted if one of their edges is impossible", async () => {
    const flow = await servers().submit("up>child");
    await removeEdges(flow, flow.keys("child"));
    await flow.fixture.read("hset", flow.keys("child").depsMeta, "impossible_required_count", 1);
    const ports = servers().ports([flow]);
    expect(await sweep(ports)).toMatchObject({ promoted: 0, refused: 0, unreadable: 1 });
    expect(await stateOf(flow.fixture, flow.keys("child"))).toBe("waiting_children");
    expect(ports.telemetry.warnings[0]?.fields.reason).toContain("impossible");
  });

  it("are not promoted if the lane of their record differs from the lane of the index", async () => {
    const flow = await servers().submit("up>child");
    await removeEdges(flow, flow.keys("child"));
    await flow.fixture.read("hset", flow.keys("child").core, "lane_id", "gpu");
    expect(await sweep(servers().ports([flow]))).toMatchObject({ promoted: 0, unreadable: 1 });
    expect(await stateOf(flow.fixture, flow.keys("child"))).toBe("waiting_children");
  });

  it("count as unreadable if the function refuses because of a wrong counter", async () => {
    const flow = await servers().submit("up>child");
    await removeEdges(flow, flow.keys("child"));
    await flow.fixture.read("hset", flow.keys("child").depsMeta, "unsatisfied_required_count", 1);
    expect(await sweep(servers().ports([flow]))).toMatchObject({ promoted: 0, refused: 1, unreadable: 1 });
  });

  it("are refused without a warning if an edge is applied before the promotion", async () => {
    const flow = await servers().submit("up>child");
    const { fixture } = flow;
    const child = flow.keys("child");
    await removeEdges(flow, child);
    const ports = servers().ports([flow]);
    const { valkey } = ports;
    const racing = {
      call: valkey.call.bind(valkey),
      pipelined: async (commands: Parameters<typeof valkey.pipelined>[0]) => {
        if (commands.some(({ name }) => name === "fcall")) await fixture.edge(await fixture.member(), child);
        return valkey.pipelined(commands);
      },
    };
    expect(await sweep({ ...ports, valkey: racing })).toMatchObject({
      promoted: 0,
      refused: 1,
      unreadable: 0,
    });
    expect(ports.telemetry.warnings).toEqual([]);
    expect(await stateOf(fixture, child)).toBe("waiting_children");
  });

  it("are promoted after the missing library is loaded", async () => {
    const flow = await servers().submit("up>child");
    await removeEdges(flow, flow.keys("child"));
    await onEveryPrimary(servers().valkey, "function", "FLUSH", "SYNC");
    expect(await sweep(servers().ports([flow]))).toMatchObject({ promoted: 1, unread: 0 });
    expect(await stateOf(flow.fixture, flow.keys("child"))).toBe("waiting");
  });

  it("are not counted as promoted if the pipeline returns too few results, and their index is retried", async () => {
    const flow = await servers().submit("up>child");
    await removeEdges(flow, flow.keys("child"));
    const ports = servers().ports([flow]);
    const { valkey } = ports;
    let calls = 0;
    const tooShort = {
      call: valkey.call.bind(valkey),
      pipelined: async (commands: Parameters<typeof valkey.pipelined>[0]) => {
        if (!commands.some(({ name }) => name === "fcall")) return valkey.pipelined(commands);
        calls += 1;
        // The first call is lost; later ones reach the server, but their reply does not come back.
        if (calls > 1) await valkey.pipelined(commands);
        return [];
      },
    };
    const report = await sweep({ ...ports, valkey: tooShort });
    expect(report).toMatchObject({ state: "incomplete", promoted: 0, refused: 0, unread: 1 });
    expect(calls).toBe(2);
  });
});

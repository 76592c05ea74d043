import { describe, expect, it } from "vitest";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { sweep } from "#shared/reconcile/sweep.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { stateOf } from "#test/support/dispatch.ts";
import { expectOnlyIn } from "#test/support/expectations.ts";
import { type Flow, KINDS, MINUTE_MS, standFor } from "#test/support/reconcile.ts";
import { onEveryPrimary } from "#test/support/valkey.ts";

/** Takes away all that the child waits for, as a crashed engine might have, and leaves it blocked. */
async function freed({ fixture }: Flow, child: ExecKeys): Promise<void> {
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

describe.each(KINDS)("blocked executions with nothing unresolved (%s)", (kind) => {
  const stand = standFor(kind);

  it("are promoted, once", async () => {
    const flow = await stand().submitted("up>child", "up>other");
    const child = flow.keys("child");
    await freed(flow, child);
    const ports = stand().ports([flow]);
    expect(await sweep(ports)).toMatchObject({ state: "complete", promoted: 1, refused: 0, repaired: 0 });
    expect(await stateOf(flow.fixture, child)).toBe("waiting");
    await expectOnlyIn(flow.fixture, child, "eligible");
    expect(await stateOf(flow.fixture, flow.keys("other"))).toBe("waiting_children");
    expect(ports.telemetry.counts.get(METRICS.executionsPromoted)).toBe(1);
    expect(ports.telemetry.gauges.get(METRICS.oldestResolvableAge)).toBe(60);
    expect(await sweep(stand().ports([flow]))).toMatchObject({ promoted: 0, scanned: 1 });
  });

  it("are left alone where an edge of theirs is impossible", async () => {
    const flow = await stand().submitted("up>child");
    await freed(flow, flow.keys("child"));
    await flow.fixture.read("hset", flow.keys("child").depsMeta, "impossible_required_count", 1);
    const ports = stand().ports([flow]);
    expect(await sweep(ports)).toMatchObject({ promoted: 0, refused: 0, unreadable: 1 });
    expect(await stateOf(flow.fixture, flow.keys("child"))).toBe("waiting_children");
    expect(ports.telemetry.warnings[0]?.fields.reason).toContain("impossible");
  });

  it("are left alone where their record has another lane than the index", async () => {
    const flow = await stand().submitted("up>child");
    await freed(flow, flow.keys("child"));
    await flow.fixture.read("hset", flow.keys("child").core, "lane_id", "gpu");
    expect(await sweep(stand().ports([flow]))).toMatchObject({ promoted: 0, unreadable: 1 });
    expect(await stateOf(flow.fixture, flow.keys("child"))).toBe("waiting_children");
  });

  it("are told of where the function refuses because their counts are wrong", async () => {
    const flow = await stand().submitted("up>child");
    await freed(flow, flow.keys("child"));
    await flow.fixture.read("hset", flow.keys("child").depsMeta, "unsatisfied_required_count", 1);
    expect(await sweep(stand().ports([flow]))).toMatchObject({ promoted: 0, refused: 1, unreadable: 1 });
  });

  it("are refused, as an ordinary thing, where an edge is applied just before", async () => {
    const flow = await stand().submitted("up>child");
    const { fixture } = flow;
    const child = flow.keys("child");
    await freed(flow, child);
    const ports = stand().ports([flow]);
    const { valkey } = ports;
    const overtaken = {
      call: valkey.call.bind(valkey),
      pipelined: async (commands: Parameters<typeof valkey.pipelined>[0]) => {
        if (commands.some(({ name }) => name === "fcall")) await fixture.edge(await fixture.member(), child);
        return valkey.pipelined(commands);
      },
    };
    expect(await sweep({ ...ports, valkey: overtaken })).toMatchObject({
      promoted: 0,
      refused: 1,
      unreadable: 0,
    });
    expect(ports.telemetry.warnings).toEqual([]);
    expect(await stateOf(fixture, child)).toBe("waiting_children");
  });

  it("are promoted where the library has to be loaded first", async () => {
    const flow = await stand().submitted("up>child");
    await freed(flow, flow.keys("child"));
    await onEveryPrimary(stand().valkey, "function", "FLUSH", "SYNC");
    expect(await sweep(stand().ports([flow]))).toMatchObject({ promoted: 1, unread: 0 });
    expect(await stateOf(flow.fixture, flow.keys("child"))).toBe("waiting");
  });
});

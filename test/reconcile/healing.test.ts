import { describe, expect, it } from "vitest";
import { workBatch } from "#sdk/worker/worker.ts";
import type { Edition } from "#shared/contract/edition.ts";
import { PublishError } from "#shared/errors.ts";
import { sweep } from "#shared/reconcile/sweep.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { RecordingPublisher } from "#test/submission/fixture.ts";
import { dispatchAll, portsOf, stateOf } from "#test/support/dispatch.ts";
import { ROUTER, WORKER } from "#test/support/flow-fixture.ts";
import { endedAgo, type Flow, KINDS, MINUTE_MS, standFor } from "#test/support/reconcile.ts";

const EDITIONS: readonly Edition[] = [11, 14];

describe.each(KINDS.flatMap((kind) => EDITIONS.map((edition) => ({ kind, edition }))))(
  "what dispatch missed is made good ($kind, $edition KEYS)",
  ({ kind, edition }) => {
    const stand = standFor(kind, edition);

    /** Dispatches what the queue holds, cascades included, as if it happened long ago; the number of messages. */
    async function dispatchQueued(maxCascadeDepth = 50): Promise<number> {
      let messages = 0;
      const ports = portsOf(stand().valkey, stand().queue, {
        edition,
        maxCascadeDepth,
        now: () => Date.now() - MINUTE_MS,
      });
      for (;;) {
        const events = await stand().queue.drainEvents();
        if (events.length === 0) return messages;
        messages += events.length;
        for (const errors of await dispatchAll(ports, events)) expect(errors).toEqual([]);
      }
    }

    const statesOf = (flow: Flow, tasks: readonly string[]): Promise<string[]> =>
      Promise.all(tasks.map((task) => stateOf(flow.fixture, flow.keys(task))));

    it("a completion that was never sent: one sweep after the grace, and its children run", async () => {
      const flow = await stand().submitted("up>left", "up>right");
      const { partition } = flow.keys("up");
      const lost = new RecordingPublisher(() => ({
        ok: false,
        error: new PublishError("the queue is away"),
      }));
      const deps = { valkey: stand().valkey, router: ROUTER, completions: lost, identity: WORKER };
      const place = { partition, lane: flow.fixture.lane };
      const success = { outcome: "success", result: "done" } as const;
      await expect(workBatch(deps, place, () => Promise.resolve(success), { limit: 5 })).rejects.toThrow(
        "the queue is away",
      );
      expect(await statesOf(flow, ["up", "left", "right"])).toEqual([
        "completed",
        "waiting_children",
        "waiting_children",
      ]);
      expect(await sweep(stand().ports([flow]))).toMatchObject({ repaired: 0, scanned: 2 });
      await endedAgo(flow.fixture, flow.keys("up"), 31_000);
      expect(await sweep(stand().ports([flow]))).toMatchObject({ repaired: 1, scanned: 2 });
      expect(await dispatchQueued()).toBe(1);
      expect(await statesOf(flow, ["left", "right"])).toEqual(["waiting", "waiting"]);
      expect(await sweep(stand().ports([flow]))).toMatchObject({ repaired: 0, scanned: 0 });
    });

    it("a cascade deeper than the limit goes on, some levels a sweep, to its end", async () => {
      const tasks = Array.from({ length: 14 }, (_, index) => `t${index}`);
      const flow = await stand().submitted(...tasks.slice(1).map((task, index) => `${tasks[index]}>${task}`));
      await flow.end("t0", "failed");
      const repaired: number[] = [];
      while (repaired.at(-1) !== 0 && repaired.length < 20) {
        repaired.push((await sweep(stand().ports([flow]))).repaired);
        await dispatchQueued(3);
      }
      // Levels 0 to 3 are dispatched, so each sweep brings the cascade four tasks further.
      expect(repaired).toEqual([1, 1, 1, 1, 0]);
      expect(await statesOf(flow, tasks.slice(1))).toEqual(Array(13).fill("skipped"));
    });

    it.each(edition === 14 ? ["quorum"] : [])("a %s that nobody was told of is decided", async () => {
      const fixture = stand().fixture();
      const [one, two, three, child] = [
        await fixture.member(),
        await fixture.member(),
        await fixture.member(),
        await fixture.member(),
      ];
      await fixture.group(child, { variant: "quorum", onSatisfied: "let_run", k: 2 });
      for (const up of [one, two, three]) await fixture.edge(up, child);
      for (const up of [one, three]) {
        await fixture.finish(up, "success");
        await endedAgo(fixture, up, MINUTE_MS);
      }
      const ports = stand().ports([fixture]);
      expect(await sweep(ports)).toMatchObject({ repaired: 2, promoted: 0 });
      expect(ports.telemetry.gauges.get(METRICS.oldestResolvableAge)).toBe(0);
      expect(await dispatchQueued()).toBe(2);
      expect(await stateOf(fixture, child)).toBe("waiting");
      expect(await sweep(stand().ports([fixture]))).toMatchObject({ repaired: 0, scanned: 0 });
    });
  },
);

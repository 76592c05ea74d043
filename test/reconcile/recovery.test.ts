import { describe, expect, it } from "vitest";
import { workBatch } from "#sdk/worker/worker.ts";
import type { Edition } from "#shared/contract/edition.ts";
import { PublishError } from "#shared/errors.ts";
import { sweep } from "#shared/reconcile/sweep.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { RecordingPublisher } from "#test/submission/fixture.ts";
import { dispatchAll, portsOf, stateOf } from "#test/support/dispatch.ts";
import { ROUTER, WORKER } from "#test/support/flow-fixture.ts";
import {
  backdateEnd,
  MINUTE_MS,
  SERVER_KINDS,
  type SubmittedFlow,
  useReconcilerServers,
} from "#test/support/reconcile.ts";

const EDITIONS: readonly Edition[] = [11, 14];

describe.each(SERVER_KINDS.flatMap((kind) => EDITIONS.map((edition) => ({ kind, edition }))))(
  "recovery of missed events ($kind, $edition KEYS)",
  ({ kind, edition }) => {
    const servers = useReconcilerServers(kind, edition);

    /** Dispatches all messages, cascades included, with a clock one minute behind. Returns their number. */
    async function dispatchQueued(maxCascadeDepth = 50): Promise<number> {
      let messages = 0;
      const ports = portsOf(servers().valkey, servers().queue, {
        maxCascadeDepth,
        now: () => Date.now() - MINUTE_MS,
      });
      for (;;) {
        const events = await servers().queue.drainEvents();
        if (events.length === 0) return messages;
        messages += events.length;
        for (const errors of await dispatchAll(ports, events)) expect(errors).toEqual([]);
      }
    }

    const statesOf = (flow: SubmittedFlow, tasks: readonly string[]): Promise<string[]> =>
      Promise.all(tasks.map((task) => stateOf(flow.fixture, flow.keys(task))));

    it("a completion that was never sent: the first sweep after the grace period releases its children", async () => {
      const flow = await servers().submit("up>left", "up>right");
      const { partition } = flow.keys("up");
      const lost = new RecordingPublisher(() => ({
        ok: false,
        error: new PublishError("the queue is unavailable"),
      }));
      const deps = { valkey: servers().valkey, router: ROUTER, completions: lost, identity: WORKER };
      const source = { partition, lane: flow.fixture.lane };
      const success = { outcome: "success", result: "done" } as const;
      await expect(workBatch(deps, source, () => Promise.resolve(success), { limit: 5 })).rejects.toThrow(
        "the queue is unavailable",
      );
      expect(await statesOf(flow, ["up", "left", "right"])).toEqual([
        "completed",
        "waiting_children",
        "waiting_children",
      ]);
      expect(await sweep(servers().ports([flow]))).toMatchObject({ repaired: 0, scanned: 2 });
      await backdateEnd(flow.fixture, flow.keys("up"), 31_000);
      expect(await sweep(servers().ports([flow]))).toMatchObject({ repaired: 1, scanned: 2 });
      expect(await dispatchQueued()).toBe(1);
      expect(await statesOf(flow, ["left", "right"])).toEqual(["waiting", "waiting"]);
      expect(await sweep(servers().ports([flow]))).toMatchObject({ repaired: 0, scanned: 0 });
    });

    it("a cascade beyond MAX_CASCADE_DEPTH continues with each sweep, until all are skipped", async () => {
      const tasks = Array.from({ length: 14 }, (_, index) => `t${index}`);
      const flow = await servers().submit(...tasks.slice(1).map((task, index) => `${tasks[index]}>${task}`));
      await flow.end("t0", "failed");
      const repaired: number[] = [];
      while (repaired.at(-1) !== 0 && repaired.length < 20) {
        repaired.push((await sweep(servers().ports([flow]))).repaired);
        await dispatchQueued(3);
      }
      // Dispatch handles depths 0 to 3, so each sweep advances the cascade by four tasks.
      expect(repaired).toEqual([1, 1, 1, 1, 0]);
      expect(await statesOf(flow, tasks.slice(1))).toEqual(Array(13).fill("skipped"));
    });

    it.each(edition === 14 ? ["quorum"] : [])(
      "a %s is decided after its missed completions are resent",
      async () => {
        const fixture = servers().fixture();
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
          await backdateEnd(fixture, up, MINUTE_MS);
        }
        const ports = servers().ports([fixture]);
        expect(await sweep(ports)).toMatchObject({ repaired: 2, promoted: 0 });
        expect(ports.telemetry.gauges.get(METRICS.oldestResolvableAge)).toBe(0);
        expect(await dispatchQueued()).toBe(2);
        expect(await stateOf(fixture, child)).toBe("waiting");
        expect(await sweep(servers().ports([fixture]))).toMatchObject({ repaired: 0, scanned: 0 });
      },
    );
  },
);

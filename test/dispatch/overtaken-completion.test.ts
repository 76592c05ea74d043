import { describe, expect, it } from "vitest";
import type { Pipelines } from "#shared/contract/command.ts";
import { replayExecution } from "#shared/contract/graph.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { dispatchOne, dispatchSetup, eventOf, family, stateOf } from "#test/support/dispatch.ts";
import type { FlowFixture } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

describe.each(DEPLOYMENTS_OF_BOTH)(
  "a replay that overtakes its completion ($name, $edition KEYS)",
  (deployment) => {
    const setup = dispatchSetup(deployment);

    async function failedFamily() {
      const fixture = setup.flow();
      const { parent, children } = await family(fixture, 2);
      await fixture.finish(parent, "failed");
      const replay = () => fixture.done(replayExecution(parent, fixture.index, fixture.lane, [], 0));
      const states = () => Promise.all(children.map((child) => stateOf(fixture, child)));
      return { fixture, parent, children, replay, states, event: eventOf(parent.id, fixture.flow.id) };
    }

    /** A connection that runs an action just before the first pipeline of calls. */
    function beforeCalls(act: () => Promise<unknown>): Pipelines {
      let isDone = false;
      return {
        pipelined: async (commands) => {
          if (!isDone && commands.some(({ name }) => name === "fcall")) {
            isDone = true;
            await act();
          }
          return setup.valkey.pipelined(commands);
        },
      };
    }

    const snapshotOf = async (fixture: FlowFixture) => fixture.snapshot();

    it("no child is skipped: the record is read again, and has not ended", async () => {
      const { fixture, replay, states, event } = await failedFamily();
      let afterReplay: unknown;
      const ports = setup.ports({
        valkey: beforeCalls(async () => {
          await replay();
          afterReplay = await snapshotOf(fixture);
        }),
      });
      expect(await dispatchOne(ports, event)).toEqual([]);
      expect(await snapshotOf(fixture)).toEqual(afterReplay);
      expect(await states()).toEqual(["waiting_children", "waiting_children"]);
      expect(ports.telemetry.counts).toEqual(new Map([[METRICS.recordNotTerminal, 1]]));
      expect(await setup.queue.drain()).toEqual([]);
    });

    it("an upstream that was replayed and succeeded is dispatched by its new end", async () => {
      const { fixture, parent, replay, states, event } = await failedFamily();
      const ports = setup.ports({
        valkey: beforeCalls(async () => {
          await replay();
          await fixture.finish(parent, "success");
          // Ended in the same millisecond, the two ends could not be distinguished.
          await fixture.read("hset", parent.core, "completed_at", String(Date.now() + 60_000));
        }),
      });
      expect(await dispatchOne(ports, event)).toEqual([]);
      expect(await states()).toEqual(["waiting", "waiting"]);
    });

    it("a record that changes at every reading fails the message, for a retry", async () => {
      const { fixture, parent, states, event } = await failedFamily();
      let changes = 0;
      const changing: Pipelines = {
        pipelined: async (commands) => {
          if (commands.some(({ name }) => name === "fcall")) {
            changes += 1;
            const end = String(Date.now() + 1_000 * changes);
            await fixture.read("hset", parent.core, "completed_at", end, "last_transition_at", end);
          }
          return setup.valkey.pipelined(commands);
        },
      };
      expect(await dispatchOne(setup.ports({ valkey: changing }), event)).toMatchObject([
        { name: "RefusedError", code: "upstream_changed", retryable: true },
      ]);
      expect(changes).toBe(3);
      expect(await states()).toEqual(["waiting_children", "waiting_children"]);
    });

    it("an upstream without a record, or a call without a completed_at, is resolved as before", async () => {
      const fixture = setup.flow();
      const [parent, first, second] = [
        await fixture.member(),
        await fixture.member(),
        await fixture.member(),
      ];
      const [toFirst, toSecond] = [await fixture.edge(parent, first), await fixture.edge(parent, second)];
      await fixture.finish(parent, "failed");
      const resolve = (edge: typeof toFirst, completedAt: string) =>
        fixture.call(fixture.resolution(edge, "failed", Date.now(), undefined, completedAt));
      expect(await resolve(toFirst, "1")).toEqual({ kind: "refused", code: "upstream_changed", detail: [] });
      expect(await resolve(toFirst, "")).toMatchObject({ fields: ["impossible", "child_skipped"] });
      await fixture.read("del", parent.core);
      expect(await resolve(toSecond, "1")).toMatchObject({ fields: ["impossible", "child_skipped"] });
    });
  },
);

import { beforeEach, describe, expect, it } from "vitest";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { detectEdition } from "#shared/valkey/start-up.ts";
import {
  dispatchOne,
  dispatchSetupOnOwnServer,
  eventOf,
  family,
  RecordedTelemetry,
  stateOf,
} from "#test/support/dispatch.ts";
import type { FlowFixture } from "#test/support/flow-fixture.ts";
import { librarySourceOf01, unloadLibrary } from "#test/support/library.ts";
import { onEveryPrimary } from "#test/support/valkey.ts";

/** A flow in which an execution with three children has ended. */
async function endedFamily(fixture: FlowFixture, outcome: "success" | "failed") {
  const { parent, children } = await family(fixture, 3);
  await fixture.finish(parent, outcome);
  return {
    event: eventOf(parent.id, fixture.flow.id),
    childStates: () => Promise.all(children.map((child) => stateOf(fixture, child))),
  };
}

// On servers that no other file uses: these tests replace and flush the library.
describe.each(["standalone", "cluster"] as const)("the library of the server (%s)", (kind) => {
  const setup = dispatchSetupOnOwnServer(kind, 14);
  beforeEach(() => unloadLibrary(setup.valkey));

  it("is loaded when a dispatch finds it missing", async () => {
    await ensureLibrary(setup.valkey, 11);
    const { event, childStates } = await endedFamily(setup.flow(11), "failed");
    await setup.flushLibrary();
    expect(await dispatchOne(setup.ports(), event)).toEqual([]);
    expect(await childStates()).toEqual(["skipped", "skipped", "skipped"]);
    expect(await setup.queue.drain()).toHaveLength(3);
  });

  it("is loaded in the edition that the function detected at start-up", async () => {
    await ensureLibrary(setup.valkey, 14);
    const { event, childStates } = await endedFamily(setup.flow(), "success");
    await setup.flushLibrary();
    const ports = setup.ports({
      ensureLibrary: async () => {
        expect(await ensureLibrary(setup.valkey, "auto", 14)).toBe("loaded");
      },
    });
    expect(await dispatchOne(ports, event)).toEqual([]);
    expect(await childStates()).toEqual(["waiting", "waiting", "waiting"]);
  });

  it("fails the message if it cannot be loaded", async () => {
    await ensureLibrary(setup.valkey, 14);
    const { event, childStates } = await endedFamily(setup.flow(), "failed");
    await setup.flushLibrary();
    const ports = setup.ports({
      ensureLibrary: async () => {
        await setup.valkey.call("function", "LOAD", "#!lua name=flowfabric\nnot lua");
      },
    });
    const errors = await dispatchOne(ports, event);
    expect(errors).toMatchObject(new Array(3).fill({ name: "ValkeyError" }));
    expect(await childStates()).toEqual(new Array(3).fill("waiting_children"));
    expect(await setup.queue.drain()).toEqual([]);
  });

  it.each([11, 14] as const)("is detected as the %i-KEYS edition, and dispatched to", async (edition) => {
    await ensureLibrary(setup.valkey, edition);
    const load = async () => {
      throw new Error("the library must not be loaded again");
    };
    expect(await detectEdition(setup.valkey, { edition: "auto" }, load, new RecordedTelemetry())).toBe(
      edition,
    );
    const { event, childStates } = await endedFamily(setup.flow(edition), "failed");
    expect(await dispatchOne(setup.ports(), event)).toEqual([]);
    expect(await childStates()).toEqual(["skipped", "skipped", "skipped"]);
    expect(await setup.queue.drain()).toHaveLength(3);
  });

  it("of release 0.1, which rejects surplus KEYS, is replaced and called again", async () => {
    await ensureLibrary(setup.valkey, 11);
    const { event, childStates } = await endedFamily(setup.flow(11), "failed");
    await onEveryPrimary(setup.valkey, "function", "LOAD", "REPLACE", librarySourceOf01(11));
    expect(await dispatchOne(setup.ports(), event)).toEqual([]);
    expect(await childStates()).toEqual(["skipped", "skipped", "skipped"]);
  });
});

import { describe, expect, it } from "vitest";
import type { Pipelines } from "#shared/contract/command.ts";
import { resolveDependency } from "#shared/contract/resolve.ts";
import { ConfigurationError } from "#shared/errors.ts";
import { detectEdition } from "#shared/valkey/start-up.ts";
import {
  dispatchOne,
  dispatchSetupOnOwnServer,
  eventOf,
  RecordedTelemetry,
  stateOf,
} from "#test/support/dispatch.ts";
import { flowFabricLikeLibrary } from "#test/support/flowfabric-like-library.ts";
import { onEveryPrimary } from "#test/support/valkey.ts";

/** Round trips of a dispatch: record, edges, children, calls. */
const STEPS = [1, 2, 3, 4];
const CALLS = 4;

describe.each(["standalone", "cluster"] as const)("a library that is replaced meanwhile (%s)", (kind) => {
  const setup = dispatchSetupOnOwnServer(kind, 14);

  const load = (version: 15 | 34): Promise<unknown> =>
    onEveryPrimary(setup.valkey, "function", "LOAD", "REPLACE", flowFabricLikeLibrary(version));

  /** A child that needs one of two upstreams, of which the first has failed. */
  async function anyOfTwo() {
    await load(34);
    const fixture = setup.flow(14);
    const [first, second, child] = [await fixture.member(), await fixture.member(), await fixture.member()];
    await fixture.group(child, { variant: "any_of", onSatisfied: "let_run" });
    const edge = await fixture.edge(first, child);
    await fixture.edge(second, child);
    await fixture.finish(first, "failed");
    return { fixture, first, child, edge, event: eventOf(first.id, fixture.flow.id) };
  }

  /** A connection that replaces the library just before a round trip. */
  function replacedBefore(step: number, version: 15 | 34): Pipelines {
    let round = 0;
    return {
      pipelined: async (commands) => {
        round += 1;
        if (round === step) await load(version);
        return setup.valkey.pipelined(commands);
      },
    };
  }

  it.each(STEPS)("15 by 34 before round trip %i: a child of an any_of group still waits", async (step) => {
    const { fixture, child, event } = await anyOfTwo();
    await load(15);
    expect(await dispatchOne(setup.ports({ valkey: replacedBefore(step, 34) }), event)).toEqual([]);
    expect(await stateOf(fixture, child)).toBe("waiting_children");
  });

  it.each(STEPS)(
    "34 by 15 before round trip %i: the message is dispatched as the library can",
    async (step) => {
      const { fixture, child, event } = await anyOfTwo();
      expect(await dispatchOne(setup.ports({ valkey: replacedBefore(step, 15) }), event)).toEqual([]);
      // Version 15 knows no groups: it skips the child at the first failure, for every caller.
      expect(await stateOf(fixture, child)).toBe(step <= CALLS ? "skipped" : "waiting_children");
    },
  );

  it("11 KEYS skip the child on version 34: the fake behaves as the contract says, so these tests can fail", async () => {
    const { fixture, first, child, edge } = await anyOfTwo();
    const { name, args } = fixture.resolution(edge, "failed");
    const [fn = "", , ...rest] = args;
    const short = [fn, 11, ...rest.slice(0, 11), ...rest.slice(14, 17)];
    expect(await fixture.read(name, ...short)).toEqual([1, "OK", "impossible", "child_skipped"]);
    expect(await stateOf(fixture, child)).toBe("skipped");
    expect(first.id).toBe(edge.upstream);
    expect(resolveDependency.length).toBe(3);
  });

  it("LIBRARY_EDITION=11 on version 34, and 14 on version 15, are refused at start-up", async () => {
    const never = () => Promise.resolve();
    const detect = (edition: 11 | 14 | "auto") =>
      detectEdition(setup.valkey, { edition }, never, new RecordedTelemetry());
    await load(34);
    await expect(detect(11)).rejects.toThrow(ConfigurationError);
    await expect(detect(11)).rejects.toThrow("LIBRARY_EDITION is 11, but the loaded");
    expect(await detect(14)).toBe(14);
    await load(15);
    await expect(detect(14)).rejects.toThrow("LIBRARY_EDITION is 14, but the loaded");
    expect(await detect("auto")).toBe(11);
  });
});

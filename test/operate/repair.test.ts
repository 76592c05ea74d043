/** A flow in trouble is seen, explained and repaired through the functions alone, as an operator without access to Valkey does. */

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { KINDS } from "#test/auth/secured.ts";
import { parseOutput } from "#test/cli/support.ts";
import { type Scene, setScene } from "#test/operate/scene.ts";
import { StageBed } from "#test/operate/stage-bed.ts";

describe.each(KINDS)("a repair with sluice --stage on %s", (kind) => {
  let bed: StageBed;
  let scene: Scene;
  beforeAll(async () => {
    bed = await StageBed.start(kind);
    scene = await setScene(bed);
  }, 60_000);
  afterAll(() => bed[Symbol.asyncDispose]());

  /** Runs a command with `--json`, and returns its checked output. */
  const run = async (name: string, ...args: string[]) => {
    const { code, stdout, stderr } = await bed.sluice(...name.split(" "), ...args, "--json");
    expect(stdout, stderr).not.toBe("");
    return { code, output: parseOutput(name, stdout) };
  };

  it("shows the flow and its lost completion, replays the dead letter, cancels the flow, and names who did it", async () => {
    const { output: listed } = await run("flows", "--name", "nightly");
    expect(listed.flows).toMatchObject([{ flow_id: scene.flow }]);
    const { output: explained } = await run("explain", scene.failed);
    expect(JSON.stringify(explained)).toContain("disk full");
    const { output: letters } = await run("dlq list");
    expect(JSON.stringify(letters)).toContain(scene.message);

    const { code: replayed } = await run("dlq replay", scene.message, "--yes", "--reason", "Valkey was down");
    expect(replayed).toBe(0);
    const events = await bed.queue.drainEvents();
    expect(events).toMatchObject([{ executionId: scene.failed, flowId: scene.flow }]);

    const { code, output: cancelled } = await run(
      "cancel",
      "--flow",
      scene.flow,
      "--yes",
      "--reason",
      "superseded",
    );
    expect(code).toBe(0);
    const statuses = cancelled.changes.map(({ status }: { readonly status: string }) => status);
    expect(statuses).toContain("changed");

    const { output: trail } = await run("audit");
    expect(trail.entries).toMatchObject([
      {
        operation: "cancel",
        reason: "superseded",
        actor: expect.stringMatching(/^.+@.+, request [\w-]{36}$/),
      },
      { operation: "dlq.replay", reason: "Valkey was down" },
    ]);
    for (const { actor } of trail.entries) {
      expect(bed.lambda.requestIds).toContain(String(actor).split("request ")[1]);
    }
  });

  it("asks before a change, and changes nothing without a person", async () => {
    const before = bed.lambda.events.length;
    const { code, stderr } = await bed.sluice("replay", "--flow", scene.flow);
    expect(stderr).toContain("standard input is not a terminal");
    expect(code).toBe(2);
    expect(bed.lambda.events).toHaveLength(before);
  });
});

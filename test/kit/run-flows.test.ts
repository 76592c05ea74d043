import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { containerWorker } from "#sdk/kit/container-worker.ts";
import { defineTask, type TaskContext } from "#sdk/kit/define-task.ts";
import { NonRetryableError } from "#sdk/kit/run-task.ts";
import type { Submission } from "#sdk/submission/submit.ts";
import { command } from "#shared/contract/command.ts";
import { KitBed, ROUTER } from "#test/kit/kit-bed.ts";

const DIAMOND = {
  name: "diamond",
  tasks: [
    { id: "top", payload: { n: 1 } },
    { id: "left", dependsOn: ["top"] },
    { id: "right", dependsOn: ["top"] },
    { id: "bottom", dependsOn: ["left", "right"] },
  ],
};

async function states(bed: KitBed, { executions }: Submission): Promise<Record<string, string>> {
  const ids = [...executions];
  const results = await bed.valkey.pipelined(
    ids.map(([, id]) =>
      command(ROUTER.execKeys(id).partition, "hget", ROUTER.execKeys(id).core, "public_state"),
    ),
  );
  return Object.fromEntries(
    ids.map(([task], at) => {
      const result = results[at];
      return [task, result?.ok ? String(result.value) : "unread"];
    }),
  );
}

async function ended(bed: KitBed, submission: Submission): Promise<Record<string, string>> {
  const open = new Set(["waiting", "delayed", "waiting_children", "active"]);
  return expect
    .poll(() => states(bed, submission), { timeout: 20_000, interval: 50 })
    .not.toSatisfy((found) => Object.values(found as Record<string, string>).some((state) => open.has(state)))
    .then(() => states(bed, submission));
}

describe.each(["lambda", "container", "polling container"] as const)("a flow on a %s worker", (kind) => {
  let bed: KitBed;
  let behave: (context: TaskContext) => Promise<unknown> = () => Promise.resolve();
  let runs: string[] = [];
  const stopping = new AbortController();
  let running: Promise<void> = Promise.resolve();
  const task = defineTask({
    kind: "task",
    timeout: "20s",
    run: (_input, context) => {
      runs.push(context.executionId);
      return behave(context);
    },
  });

  beforeAll(async () => {
    bed = await KitBed.start(kind === "polling container" ? [] : ["default"]);
    if (kind === "lambda") bed.trigger(bed.lambda([task]));
    else {
      Object.assign(process.env, bed.queue.environment);
      const worker = containerWorker({ tasks: [task], environment: bed.environment, telemetry: SILENT });
      running = worker.run(stopping.signal);
    }
  });
  beforeEach(() => {
    runs = [];
  });
  afterAll(async () => {
    stopping.abort();
    await running;
    await bed[Symbol.asyncDispose]();
  });

  it("runs each task once, after its upstreams, with their results", async () => {
    const results: Record<string, unknown> = {};
    behave = async ({ upstream }) => {
      const at = runs.length;
      if (at === 4) results.left = await upstream("left");
      return { at };
    };
    const submission = await bed.submit(DIAMOND);
    expect(await ended(bed, submission)).toEqual({
      top: "completed",
      left: "completed",
      right: "completed",
      bottom: "completed",
    });
    expect(runs).toHaveLength(4);
    expect(runs[0]).toBe(submission.executions.get("top"));
    expect(runs[3]).toBe(submission.executions.get("bottom"));
    expect(results.left).toEqual({ at: expect.any(Number) });
  });

  it("fails without a retry when the task says so, and leaves the skipping to dispatch", async () => {
    behave = () => Promise.reject(new NonRetryableError("no such image"));
    const submission = await bed.submit({ ...DIAMOND, name: "failing" });
    await expect
      .poll(async () => (await states(bed, submission)).left, { timeout: 20_000, interval: 50 })
      .toBe("skipped");
    expect(runs).toHaveLength(1);
    expect(await states(bed, submission)).toMatchObject({ top: "failed", left: "skipped", right: "skipped" });
  });
});

const SILENT = {
  count: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};

import { describe, expect, it, vi } from "vitest";
import { PAUSED_LANES_KEY } from "#shared/contract/keys.ts";
import { PublishError, ValkeyError } from "#shared/errors.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import {
  acquireLease,
  CHECKPOINT_KEY,
  LEASE_KEY,
  LEASE_TTL_MS,
  RENEW_INTERVAL_MS,
} from "#shared/reconcile/lease.ts";
import type { SweepReport } from "#shared/reconcile/report.ts";
import { sweep } from "#shared/reconcile/sweep.ts";
import { RecordingPublisher } from "#test/submission/fixture.ts";
import {
  MINUTE_MS,
  SERVER_KINDS,
  type SubmittedFlow,
  useReconcilerServers,
} from "#test/support/reconcile.ts";
import { connectTo } from "#test/support/valkey.ts";

const CHILDREN = 300;

describe.each(SERVER_KINDS)("runs of the reconciler (%s)", (kind) => {
  const servers = useReconcilerServers(kind);

  /** A flow whose root has ended without a completion. */
  async function submitMissed(children = 1): Promise<SubmittedFlow> {
    const flow = await servers().submit(
      ...Array.from({ length: children }, (_, index) => `up>child${index}`),
    );
    await flow.end("up", "failed");
    return flow;
  }

  it("do not overlap: a second run does nothing while the first holds the lease", async () => {
    const flow = await submitMissed();
    const { promise: maySend, resolve: allowSend } = Promise.withResolvers<void>();
    const { promise: isSending, resolve: sendBegins } = Promise.withResolvers<void>();
    const { publisher } = servers().ports([flow]);
    const pausedPublisher: CompletionPublisher = {
      send: async (completions) => {
        sendBegins();
        await maySend;
        return publisher.send(completions);
      },
    };
    const first = sweep(servers().ports([flow], { publisher: pausedPublisher }));
    await isSending;
    expect(await sweep(servers().ports([flow]))).toMatchObject({ state: "busy", scanned: 0, repaired: 0 });
    allowSend();
    expect(await first).toMatchObject({ state: "complete", repaired: 1 });
    expect(await servers().drainSent()).toEqual([flow.keys("up").id]);
    expect(await servers().valkey.call("exists", LEASE_KEY)).toBe(0);
    expect(await sweep(servers().ports([flow]))).toMatchObject({ state: "complete" });
  });

  it("a dead run's lease expires within a minute, and the next run works", async () => {
    const flow = await submitMissed();
    expect(await acquireLease(servers().valkey)).toBeDefined();
    expect(await sweep(servers().ports([flow]))).toMatchObject({ state: "busy" });
    const ttl = Number(await servers().valkey.call("pttl", LEASE_KEY));
    expect(ttl).toBeGreaterThan(0);
    expect(ttl).toBeLessThanOrEqual(LEASE_TTL_MS);
    expect(LEASE_TTL_MS).toBeLessThan(60_000);
    await servers().valkey.call("pexpire", LEASE_KEY, 1);
    await vi.waitFor(async () => expect(await servers().valkey.call("exists", LEASE_KEY)).toBe(0));
    expect(await sweep(servers().ports([flow]))).toMatchObject({ state: "complete", repaired: 1 });
  });

  it("a run that dies after sending leaves a mark, so that the next one does not send again at once", async () => {
    const flow = await submitMissed();
    const { publisher } = servers().ports([flow]);
    const dying: CompletionPublisher = {
      send: async (completions) => {
        await publisher.send(completions);
        throw new Error("the process died");
      },
    };
    await expect(sweep(servers().ports([flow], { publisher: dying }))).rejects.toThrow("the process died");
    expect(await servers().drainSent()).toEqual([flow.keys("up").id]);
    await servers().valkey.call("del", LEASE_KEY);
    expect(await sweep(servers().ports([flow]))).toMatchObject({ state: "complete", repaired: 0 });
  });

  it("a run that dies between the mark and the send delays the completion by a minute", async () => {
    const flow = await submitMissed();
    const dying: CompletionPublisher = { send: () => Promise.reject(new Error("the process died")) };
    await expect(sweep(servers().ports([flow], { publisher: dying }))).rejects.toThrow("the process died");
    await servers().valkey.call("del", LEASE_KEY);
    expect(await sweep(servers().ports([flow]))).toMatchObject({ repaired: 0 });
    await flow.backdateMark("up", MINUTE_MS);
    expect(await sweep(servers().ports([flow]))).toMatchObject({ state: "complete", repaired: 1 });
    expect(await servers().drainSent()).toEqual([flow.keys("up").id]);
  });

  it("renew the lease and save the checkpoint while they work", async () => {
    const flow = await submitMissed(CHILDREN);
    const other = await submitMissed();
    const ports = servers().ports([flow, other]);
    let now = Date.now();
    const ttls: number[] = [];
    const checkpoints: unknown[] = [];
    const watched = {
      pipelined: ports.valkey.pipelined.bind(ports.valkey),
      call: async (...args: Parameters<typeof ports.valkey.call>) => {
        const reply = await ports.valkey.call(...args);
        if (args.includes(LEASE_TTL_MS) && args.length > 7) {
          ttls.push(Number(await ports.valkey.call("pttl", LEASE_KEY)));
          checkpoints.push(await ports.valkey.call("get", CHECKPOINT_KEY));
          await ports.valkey.call("pexpire", LEASE_KEY, 5_000);
        }
        return reply;
      },
    };
    const clock = { now: () => (now += RENEW_INTERVAL_MS) };
    expect(await sweep({ ...ports, ...clock, valkey: watched })).toMatchObject({ state: "complete" });
    expect(ttls.length).toBeGreaterThan(3);
    expect(Math.min(...ttls)).toBeGreaterThan(5_000);
    expect(checkpoints.every((checkpoint) => String(checkpoint).includes('"started_at"'))).toBe(true);
    expect(await servers().valkey.call("exists", CHECKPOINT_KEY)).toBe(0);
  });

  it.each([
    ["noticed during a step", RENEW_INTERVAL_MS],
    ["noticed at the end", 0],
  ])("a run that lost its lease stops and changes neither lease nor checkpoint (%s)", async (_, step) => {
    const flows = await Promise.all([submitMissed(), submitMissed()]);
    let now = Date.now();
    const ports = servers().ports(flows, { now: () => (now += step) });
    const { backlog, valkey } = ports;
    const losing = {
      count: async () => {
        await valkey.call("set", LEASE_KEY, "another run");
        await valkey.call("set", CHECKPOINT_KEY, "its checkpoint");
        return backlog.count();
      },
    };
    const recorded = new RecordingPublisher();
    const report = await sweep({ ...ports, backlog: losing, publisher: recorded });
    expect(report).toMatchObject({ state: "lease_lost" });
    expect(recorded.sent).toHaveLength(step === 0 ? 2 : 0);
    expect(await valkey.call("get", LEASE_KEY)).toBe("another run");
    expect(await valkey.call("get", CHECKPOINT_KEY)).toBe("its checkpoint");
  });

  it("stop before the deadline, save a checkpoint, and resume there", async () => {
    const flows = await Promise.all(Array.from({ length: 4 }, () => submitMissed(CHILDREN)));
    const reports: SweepReport[] = [];
    // The clock of the run is slower than the real one, which an SQS publisher's deadline uses.
    const publisher = new RecordingPublisher();
    while (reports.at(-1)?.state !== "complete" && reports.length < 100) {
      let now = Date.now();
      const deadlineMs = now + 150;
      const ports = servers().ports(flows, { deadlineMs, publisher, now: () => now });
      const { valkey } = ports;
      const slow = {
        call: valkey.call.bind(valkey),
        pipelined: (commands: Parameters<typeof valkey.pipelined>[0]) => {
          now += 10;
          return valkey.pipelined(commands);
        },
      };
      reports.push(await sweep({ ...ports, valkey: slow }));
      expect(now).toBeLessThan(deadlineMs);
      const isOver = reports.at(-1)?.state === "complete";
      expect(await servers().valkey.call("exists", CHECKPOINT_KEY)).toBe(isOver ? 0 : 1);
      expect(await servers().valkey.call("exists", LEASE_KEY)).toBe(0);
    }
    expect(reports.length).toBeGreaterThan(3);
    expect(reports.slice(0, -1).every(({ state }) => state === "out_of_time")).toBe(true);
    const scanned = reports.reduce((sum, report) => sum + report.scanned, 0);
    expect(scanned).toBeGreaterThanOrEqual(4 * CHILDREN);
    expect(scanned).toBeLessThan(2 * 4 * CHILDREN);
    expect(publisher.executionIds.toSorted()).toEqual(flows.map((flow) => flow.keys("up").id).toSorted());
  });

  it("resume at the checkpoint of another client, and start a new sweep if it is invalid", async () => {
    const [first, second] = [await submitMissed(), await submitMissed()];
    const partitions = [first.submission.partition, second.submission.partition].toSorted((a, b) => a - b);
    const checkpoint = {
      started_at: Date.now() - 5_000,
      last: ["blocked:dependencies", "default", partitions[0], "0"],
      open: [],
      failed: [],
      second_look: false,
    };
    await servers().valkey.call("set", CHECKPOINT_KEY, JSON.stringify({ dependencies: checkpoint }));
    const ports = servers().ports([first, second]);
    expect(await sweep(ports)).toMatchObject({ state: "complete", scanned: 1 });
    expect(ports.telemetry.gauges.get("SweepDuration")).toBeGreaterThanOrEqual(5_000);
    for (const text of [
      "",
      "[]",
      "{}",
      JSON.stringify(checkpoint),
      JSON.stringify({
        dependencies: { ...checkpoint, open: [["blocked:dependencies", "default", 70_000, "0"]] },
      }),
    ]) {
      await servers().valkey.call("set", CHECKPOINT_KEY, text);
      const restarted = servers().ports([first, second]);
      expect(await sweep(restarted)).toMatchObject({ state: "complete", scanned: 2 });
      expect(restarted.telemetry.warnings).toHaveLength(text === "" ? 0 : 1);
    }
    await servers().queue.drain();
  });

  it("mark no refused completion, and send it in the next sweep", async () => {
    const flow = await submitMissed();
    const refusal = { ok: false, error: new PublishError("injected failure", "refused") } as const;
    const refusing = new RecordingPublisher(() => refusal);
    const ports = servers().ports([flow], { publisher: refusing });
    expect(await sweep(ports)).toMatchObject({ state: "incomplete", repaired: 0, deferred: 0, unread: 0 });
    expect(ports.telemetry.warnings[0]?.fields.reason).toBe("injected failure");
    expect(await servers().valkey.call("exists", CHECKPOINT_KEY)).toBe(0);
    expect(await flow.mark("up")).toBeNull();
    expect(await sweep(servers().ports([flow]))).toMatchObject({ state: "complete", repaired: 1 });
    const mark = await flow.mark("up");
    await flow.backdateMark("up", MINUTE_MS);
    const backdated = await flow.mark("up");
    expect(await sweep(servers().ports([flow], { publisher: refusing }))).toMatchObject({ repaired: 0 });
    expect(await flow.mark("up")).toBe(backdated);
    expect(mark).toMatch(/^\d+\|1\|\d+$/);
    await servers().queue.drain();
  });

  it.each([
    ["a lost answer", [{ ok: false, error: new PublishError("no answer", "unknown") } as const]],
    ["too few results", []],
  ])("do not send a completion again at once whose send is unknown: %s", async (_, answer) => {
    const flow = await submitMissed();
    const unknown: CompletionPublisher = { send: () => Promise.resolve([...answer]) };
    const report = await sweep(servers().ports([flow], { publisher: unknown }));
    expect(report).toMatchObject({ state: "incomplete", repaired: 0 });
    expect(await sweep(servers().ports([flow]))).toMatchObject({ state: "complete", repaired: 0 });
    await flow.backdateMark("up", MINUTE_MS);
    expect(await sweep(servers().ports([flow]))).toMatchObject({ repaired: 1 });
    await servers().queue.drain();
  });

  it("send nothing that they could not mark", async () => {
    const flow = await submitMissed();
    const recorded = new RecordingPublisher();
    const ports = servers().ports([flow], { publisher: recorded });
    const readOnly = {
      call: ports.valkey.call.bind(ports.valkey),
      pipelined: async (commands: Parameters<typeof ports.valkey.pipelined>[0]) =>
        commands.some(({ name }) => name === "set")
          ? commands.map(() => ({ ok: false, error: new ValkeyError("OOM command not allowed") }) as const)
          : ports.valkey.pipelined(commands),
    };
    expect(await sweep({ ...ports, valkey: readOnly })).toMatchObject({ state: "incomplete", repaired: 0 });
    expect(recorded.sent).toEqual([]);
  });

  it.each(["zscan", "hmget", "scard", "smembers"])(
    "retry an index if a pipeline with %s returns too few results, and count no completion as sent",
    async (name) => {
      const flow = await submitMissed();
      const recorded = new RecordingPublisher();
      const ports = servers().ports([flow], { publisher: recorded });
      let remaining = 1;
      const shortOnce = {
        call: ports.valkey.call.bind(ports.valkey),
        pipelined: async (commands: Parameters<typeof ports.valkey.pipelined>[0]) => {
          const results = await ports.valkey.pipelined(commands);
          const isMeant = commands.some((sent) => sent.name === name && sent.args[0] !== PAUSED_LANES_KEY);
          if (remaining === 0 || !isMeant) return results;
          remaining -= 1;
          return results.slice(0, -1);
        },
      };
      expect(await sweep({ ...ports, valkey: shortOnce })).toMatchObject({ state: "complete", repaired: 1 });
      expect(remaining).toBe(0);
      remaining = 100;
      const report = await sweep({ ...servers().ports([flow], { publisher: recorded }), valkey: shortOnce });
      expect(report).toMatchObject({ state: "incomplete", repaired: 0, unread: 1 });
      expect(recorded.executionIds).toEqual([flow.keys("up").id]);
    },
  );

  it("fail if Valkey is unavailable, at the start or later", async () => {
    const flow = await submitMissed();
    const closed = connectTo(servers().address);
    await closed.call("ping");
    closed.close();
    await expect(sweep(servers().ports([flow], { valkey: closed }))).rejects.toThrow(
      /^Valkey at 127\.0\.0\.1:/,
    );

    const dying = connectTo(servers().address);
    await dying.call("ping");
    const ports = servers().ports([flow]);
    const { publisher } = ports;
    const cutting: CompletionPublisher = {
      send: (completions) => {
        dying.close();
        return publisher.send(completions);
      },
    };
    await expect(sweep({ ...ports, valkey: dying, publisher: cutting })).rejects.toThrow(
      /^Valkey at 127\.0\.0\.1:/,
    );
    await servers().queue.drain();
  });
});

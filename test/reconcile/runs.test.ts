import { describe, expect, it, vi } from "vitest";
import { PublishError } from "#shared/errors.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import { KEEP_EVERY_MS, LEASE_KEY, LEASE_TTL_MS, PLACE_KEY, takeLease } from "#shared/reconcile/lease.ts";
import { type SweepReport, sweep } from "#shared/reconcile/sweep.ts";
import { RecordingPublisher } from "#test/submission/fixture.ts";
import { type Flow, KINDS, standFor } from "#test/support/reconcile.ts";
import { connectTo } from "#test/support/valkey.ts";

const CHILDREN = 300;

describe.each(KINDS)("runs of the reconciler (%s)", (kind) => {
  const stand = standFor(kind);

  /** A flow whose root has ended, and nobody was told. */
  async function missed(children = 1): Promise<Flow> {
    const flow = await stand().submitted(
      ...Array.from({ length: children }, (_, index) => `up>child${index}`),
    );
    await flow.end("up", "failed");
    return flow;
  }

  it("do not overlap: the second does nothing while the first is at it", async () => {
    const flow = await missed();
    const { promise: mayGoOn, resolve: goOn } = Promise.withResolvers<void>();
    const { promise: isSending, resolve: sends } = Promise.withResolvers<void>();
    const { publisher } = stand().ports([flow]);
    const held: CompletionPublisher = {
      send: async (completions) => {
        sends();
        await mayGoOn;
        return publisher.send(completions);
      },
    };
    const first = sweep(stand().ports([flow], { publisher: held }));
    await isSending;
    expect(await sweep(stand().ports([flow]))).toMatchObject({ state: "busy", scanned: 0, repaired: 0 });
    goOn();
    expect(await first).toMatchObject({ state: "complete", repaired: 1 });
    expect(await stand().sent()).toEqual([flow.keys("up").id]);
    expect(await stand().valkey.call("exists", LEASE_KEY)).toBe(0);
    expect(await sweep(stand().ports([flow]))).toMatchObject({ state: "complete" });
  });

  it("one that died leaves a lease that expires before the next minute", async () => {
    const flow = await missed();
    expect(await takeLease(stand().valkey)).toBeDefined();
    expect(await sweep(stand().ports([flow]))).toMatchObject({ state: "busy" });
    const ttl = Number(await stand().valkey.call("pttl", LEASE_KEY));
    expect(ttl).toBeGreaterThan(0);
    expect(ttl).toBeLessThanOrEqual(LEASE_TTL_MS);
    expect(LEASE_TTL_MS).toBeLessThan(60_000);
    await stand().valkey.call("pexpire", LEASE_KEY, 1);
    await vi.waitFor(async () => expect(await stand().valkey.call("exists", LEASE_KEY)).toBe(0));
    expect(await sweep(stand().ports([flow]))).toMatchObject({ state: "complete", repaired: 1 });
  });

  it("one that dies after sending loses nothing: the next finds it all again", async () => {
    const flow = await missed();
    const { publisher } = stand().ports([flow]);
    const dying: CompletionPublisher = {
      send: async (completions) => {
        await publisher.send(completions);
        throw new Error("the process died");
      },
    };
    await expect(sweep(stand().ports([flow], { publisher: dying }))).rejects.toThrow("the process died");
    expect(await stand().sent()).toEqual([flow.keys("up").id]);
    await stand().valkey.call("del", LEASE_KEY);
    expect(await sweep(stand().ports([flow]))).toMatchObject({ state: "complete", repaired: 1 });
  });

  it("renew their lease and keep their place while they work", async () => {
    const flow = await missed(CHILDREN);
    const other = await missed();
    const ports = stand().ports([flow, other]);
    let now = Date.now();
    const ttls: number[] = [];
    const places: unknown[] = [];
    const watched = {
      pipelined: ports.valkey.pipelined.bind(ports.valkey),
      call: async (...args: Parameters<typeof ports.valkey.call>) => {
        const reply = await ports.valkey.call(...args);
        if (args.includes(LEASE_TTL_MS) && args.length > 7) {
          ttls.push(Number(await ports.valkey.call("pttl", LEASE_KEY)));
          places.push(await ports.valkey.call("get", PLACE_KEY));
          await ports.valkey.call("pexpire", LEASE_KEY, 5_000);
        }
        return reply;
      },
    };
    const clock = { now: () => (now += KEEP_EVERY_MS) };
    expect(await sweep({ ...ports, ...clock, valkey: watched })).toMatchObject({ state: "complete" });
    expect(ttls.length).toBeGreaterThan(3);
    expect(Math.min(...ttls)).toBeGreaterThan(5_000);
    expect(places.every((place) => String(place).includes('"started_at"'))).toBe(true);
    expect(await stand().valkey.call("exists", PLACE_KEY)).toBe(0);
  });

  it.each([
    ["while it works", KEEP_EVERY_MS, 2],
    ["and it finds out at its end", 0, 4],
  ])(
    "one that has lost its lease stops, and touches nothing of the run that has it (%s)",
    async (_, step, sends) => {
      // Two pages of a hundred are dealt with at once.
      const flows = await Promise.all(Array.from({ length: 4 }, () => missed(CHILDREN)));
      let now = Date.now();
      const kept = new RecordingPublisher();
      const losing: CompletionPublisher = {
        send: async (completions) => {
          await stand().valkey.call("set", LEASE_KEY, "another run");
          await stand().valkey.call("set", PLACE_KEY, "its place");
          return kept.send(completions);
        },
      };
      const ports = stand().ports(flows, { publisher: losing, now: () => (now += step) });
      expect(await sweep(ports)).toMatchObject({ state: "lease_lost" });
      expect(kept.sent).toHaveLength(sends);
      expect(await stand().valkey.call("get", LEASE_KEY)).toBe("another run");
      expect(await stand().valkey.call("get", PLACE_KEY)).toBe("its place");
    },
  );

  it("stop before the deadline, keep their place, and go on there", async () => {
    const flows = await Promise.all(Array.from({ length: 4 }, () => missed(CHILDREN)));
    const reports: SweepReport[] = [];
    while (reports.at(-1)?.state !== "complete" && reports.length < 100) {
      let now = Date.now();
      const deadlineMs = now + 150;
      const ports = stand().ports(flows, { deadlineMs, now: () => now });
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
      expect(await stand().valkey.call("exists", PLACE_KEY)).toBe(isOver ? 0 : 1);
      expect(await stand().valkey.call("exists", LEASE_KEY)).toBe(0);
    }
    expect(reports.length).toBeGreaterThan(3);
    expect(reports.slice(0, -1).every(({ state }) => state === "out_of_time")).toBe(true);
    const scanned = reports.reduce((sum, report) => sum + report.scanned, 0);
    expect(scanned).toBeGreaterThanOrEqual(4 * CHILDREN);
    expect(scanned).toBeLessThan(2 * 4 * CHILDREN);
    expect(new Set(await stand().sent())).toEqual(new Set(flows.map((flow) => flow.keys("up").id)));
  });

  it("go on at a place on another client, and begin anew where it makes no sense", async () => {
    const [first, second] = [await missed(), await missed()];
    const partitions = [first.submission.partition, second.submission.partition].toSorted((a, b) => a - b);
    const place = {
      started_at: Date.now() - 5_000,
      last: ["default", partitions[0], "0"],
      open: [],
      failed: [],
      second_look: false,
    };
    await stand().valkey.call("set", PLACE_KEY, JSON.stringify(place));
    const ports = stand().ports([first, second]);
    expect(await sweep(ports)).toMatchObject({ state: "complete", scanned: 1 });
    expect(ports.telemetry.gauges.get("SweepDuration")).toBeGreaterThanOrEqual(5_000);
    for (const text of ["", "[]", "{}", JSON.stringify({ ...place, open: [["default", 70_000, "0"]] })]) {
      await stand().valkey.call("set", PLACE_KEY, text);
      const anew = stand().ports([first, second]);
      expect(await sweep(anew)).toMatchObject({ state: "complete", scanned: 2 });
      expect(anew.telemetry.warnings).toHaveLength(text === "" ? 0 : 1);
    }
    await stand().queue.drain();
  });

  it("try once more, before a sweep ends, what the queue refused", async () => {
    const flow = await missed();
    const refusal = { ok: false, error: new PublishError("made to fail") } as const;
    const once = new RecordingPublisher((_, attempt) => (attempt === 1 ? refusal : { ok: true }));
    expect(await sweep(stand().ports([flow], { publisher: once }))).toMatchObject({
      state: "complete",
      repaired: 1,
    });
    const never = new RecordingPublisher(() => refusal);
    const ports = stand().ports([flow], { publisher: never });
    expect(await sweep(ports)).toMatchObject({ state: "incomplete", repaired: 0, unread: 1 });
    expect(ports.telemetry.warnings[0]?.fields.reason).toBe("made to fail");
    expect(await stand().valkey.call("exists", PLACE_KEY)).toBe(0);
  });

  it("fail where Valkey is not there, at the beginning or later", async () => {
    const flow = await missed();
    const away = connectTo(stand().address);
    await away.call("ping");
    away.close();
    await expect(sweep(stand().ports([flow], { valkey: away }))).rejects.toThrow("Valkey at 127.0.0.1");

    const dying = connectTo(stand().address);
    await dying.call("ping");
    const ports = stand().ports([flow]);
    const { publisher } = ports;
    const cutting: CompletionPublisher = {
      send: (completions) => {
        dying.close();
        return publisher.send(completions);
      },
    };
    await expect(sweep({ ...ports, valkey: dying, publisher: cutting })).rejects.toThrow(
      "Valkey at 127.0.0.1",
    );
    await stand().queue.drain();
  });
});

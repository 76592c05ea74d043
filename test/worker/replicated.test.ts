/** Writes that wait for replicas, on primaries with one replica each that the tests stop and continue. */

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { startValkey, startValkeyCluster, type ValkeyServer } from "#local/valkey-server.ts";
import { ReplicatedValkey, type ReplicationOptions } from "#sdk/replicated-valkey.ts";
import { submitFlow } from "#sdk/submission/submit.ts";
import { claimBatch } from "#sdk/worker/claim.ts";
import { type FinishedRun, finishBatch } from "#sdk/worker/finish.ts";
import { workBatch } from "#sdk/worker/worker.ts";
import { command } from "#shared/contract/command.ts";
import type { ExecutionId, Partition } from "#shared/contract/ids.ts";
import { slotOf } from "#shared/contract/partitions.ts";
import { ConfigurationError, NotReplicatedError, SubmissionError } from "#shared/errors.ts";
import type { ValkeyAddress } from "#shared/valkey/address.ts";
import { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { LANE, RecordingPublisher, recordOf, task, workflowOf } from "#test/submission/fixture.ts";
import { newFlowId, ROUTER } from "#test/support/flow-fixture.ts";
import { connectTo, onEveryPrimary } from "#test/support/valkey.ts";

const SUCCESS = { outcome: "success", result: "done" } as const;
const IDENTITY = { workerId: "w", instanceId: "w-1" };
/** A loaded machine confirms in some hundred milliseconds. */
const WAIT_MS = 500;
const NOT_CONFIRMED = { ok: false, error: expect.any(NotReplicatedError) };
const START_TIMEOUT = 60_000;

interface Replicated {
  readonly address: ValkeyAddress;
  readonly replicas: readonly ValkeyServer[];
  stop(): Promise<void>;
}

async function standalone(): Promise<Replicated> {
  const primary = await startValkey();
  const replica = await startValkey({ extraArgs: ["--replicaof", "127.0.0.1", String(primary.port)] });
  return {
    address: { url: primary.url, cluster: false },
    replicas: [replica],
    stop: async () => {
      await Promise.all([replica.stop(), primary.stop()]);
    },
  };
}

async function cluster(): Promise<Replicated> {
  const { url, nodes, stop } = await startValkeyCluster({ primaries: 2, replicas: 1 });
  return { address: { url, cluster: true }, replicas: nodes.slice(2), stop };
}

describe.each([
  { name: "standalone", start: standalone },
  { name: "cluster", start: cluster },
])("writes that wait for replicas ($name)", ({ name, start }) => {
  let servers: Replicated;
  let direct: Valkey;
  let open: ReplicatedValkey[];

  beforeAll(async () => {
    servers = await start();
    direct = connectTo(servers.address);
    await ensureLibrary(direct);
    // Until a replica is in sync, no write is confirmed.
    const probe = connect();
    const partitions = [partition(0), partition(255)];
    while (!(await probe.pipelined(partitions.map(ping))).every(({ ok }) => ok));
    probe.close();
  }, START_TIMEOUT);
  afterAll(async () => {
    direct.close();
    await servers.stop();
  });
  beforeEach(async () => {
    open = [];
    await onEveryPrimary(direct, "config", "resetstat");
  });
  afterEach(() => {
    signalReplicas("SIGCONT");
    for (const valkey of open) valkey.close();
  });

  function connect(options: ReplicationOptions = {}): ReplicatedValkey {
    const replicated = new ReplicatedValkey(
      (knownNodes) => new Valkey(servers.address, { knownNodes, onConnectionError: () => undefined }),
      { waitReplicas: 1, waitTimeoutMs: WAIT_MS, ...options },
    );
    open?.push(replicated);
    return replicated;
  }

  function signalReplicas(signal: "SIGSTOP" | "SIGCONT"): void {
    for (const { pid } of servers.replicas) process.kill(pid, signal);
  }

  /** The number of WAIT commands since the statistics were reset, per primary. */
  async function waits(): Promise<number[]> {
    const infos = await onEveryPrimary(direct, "info", "commandstats");
    return infos.map((info) => Number(/cmdstat_wait:calls=(\d+)/.exec(String(info))?.[1] ?? 0)).sort();
  }

  /** Submits a flow of one task, and claims it. */
  async function claimed() {
    const completions = new RecordingPublisher();
    const submission = await submitFlow(
      { valkey: direct, router: ROUTER, completions },
      { name: "one", tasks: [task("a")], edges: [] },
      { flowId: newFlowId() },
    );
    const id = submission.executions.get("a") as ExecutionId;
    const deps = { valkey: direct, router: ROUTER, completions, identity: IDENTITY, retryDelaysMs: [] };
    const claims = await claimBatch(deps, { partition: submission.partition, lane: LANE }, { limit: 1 });
    const finished = claims.map((claim): FinishedRun => ({ claimed: claim, run: SUCCESS }));
    expect(finished).toHaveLength(1);
    return { completions, deps, id, finished };
  }

  test("a confirmed outcome is published", async () => {
    const { completions, deps, id, finished } = await claimed();
    expect(await finishBatch({ ...deps, replicated: connect() }, finished)).toEqual([
      { id, status: "completed" },
    ]);
    expect(completions.executionIds).toEqual([id]);
    expect((await waits()).at(-1)).toBe(1);
  });

  test("an outcome that no replica confirms is reported as written, and published once it is confirmed", async () => {
    const { completions, deps, id, finished } = await claimed();
    signalReplicas("SIGSTOP");
    const finish = () => finishBatch({ ...deps, replicated: connect() }, finished);
    const unconfirmed = await finish().catch((error: unknown) => error);
    expect(unconfirmed).toBeInstanceOf(NotReplicatedError);
    expect(unconfirmed).toMatchObject({
      retryable: true,
      message: `the outcome of ${id}: written, but not confirmed: 0 of 1 replicas confirmed within ${WAIT_MS} ms`,
    });
    expect(await recordOf(direct, id, "public_state")).toEqual({ public_state: "completed" });
    // A new connection has written nothing, and a plain WAIT would answer at once: the call finds the outcome written.
    await expect(finish()).rejects.toThrow(NotReplicatedError);
    expect(completions.sent).toEqual([]);
    signalReplicas("SIGCONT");
    expect(await finish()).toEqual([{ id, status: "completed" }]);
    expect(completions.executionIds).toEqual([id]);
  });

  test("a retry waits again, over a new connection", async () => {
    const { completions, deps, id, finished } = await claimed();
    signalReplicas("SIGSTOP");
    let rounds = 0;
    const replicated = {
      pipelined: async (...args: Parameters<ReplicatedValkey["pipelined"]>) => {
        rounds += 1;
        if (rounds === 3) signalReplicas("SIGCONT");
        const connection = connect();
        return connection.pipelined(...args);
      },
    };
    const worked = await finishBatch({ ...deps, replicated, retryDelaysMs: [1, 1, 1, 1, 1] }, finished);
    expect(worked).toEqual([{ id, status: "completed" }]);
    expect(completions.executionIds).toEqual([id]);
    expect(rounds).toBeGreaterThanOrEqual(3);
  });

  test("claims and reads do not wait behind a WAIT", async () => {
    const { deps, finished } = await claimed();
    signalReplicas("SIGSTOP");
    const ended: string[] = [];
    const finishing = finishBatch({ ...deps, replicated: connect({ waitTimeoutMs: 1_000 }) }, finished).catch(
      () => ended.push("wait"),
    );
    const source = { partition: partition(3), lane: LANE };
    await workBatch(deps, source, () => Promise.resolve(SUCCESS), { limit: 1 });
    ended.push("claim");
    await finishing;
    expect(ended).toEqual(["claim", "wait"]);
  });

  test("calls made during a wait share the next one; each node gets one", async () => {
    const replicated = connect();
    await replicated.pipelined([ping(partition(0))]);
    await onEveryPrimary(direct, "config", "resetstat");
    const all = Array.from({ length: 256 }, (_, number) => partition(number));
    const calls = [all.slice(0, 128), all.slice(128), all.slice(0, 1), all].map((partitions) =>
      replicated.pipelined(partitions.map(ping)),
    );
    const results = await Promise.all(calls);
    expect(results.map(({ length }) => length)).toEqual([128, 128, 1, 256]);
    expect(results.flat().every((result) => result.ok && result.value === "PONG")).toBe(true);
    // The first call is sent alone. Slots are assigned evenly, so its partitions are on both nodes.
    expect(await waits()).toEqual(name === "cluster" ? [2, 2] : [2]);
  });

  test("a submission that is not confirmed fails, and submitting again completes it", async () => {
    const completions = new RecordingPublisher();
    const flowId = newFlowId();
    const submit = () =>
      submitFlow({ valkey: connect(), router: ROUTER, completions }, workflowOf("a>b", "a>c"), { flowId });
    signalReplicas("SIGSTOP");
    const unconfirmed = await submit().catch((error: unknown) => error);
    expect(unconfirmed).toBeInstanceOf(SubmissionError);
    expect(unconfirmed).toMatchObject({ retryable: true, cause: expect.any(NotReplicatedError) });
    signalReplicas("SIGCONT");
    const { executions } = await submit();
    expect(await recordOf(direct, executions.get("b") as ExecutionId, "public_state")).toEqual({
      public_state: "waiting_children",
    });
  });

  test("failed commands keep their errors, and executed ones are not confirmed", async () => {
    signalReplicas("SIGSTOP");
    const [executed, failed] = await connect().pipelined([
      ping(partition(0)),
      command(partition(0), "fcall", "no_such_function", 0),
    ]);
    expect(executed).toEqual(NOT_CONFIRMED);
    expect(failed).toMatchObject({ ok: false, error: { name: "ValkeyError" } });
  });

  test("without replicas to wait for, nothing waits", async () => {
    signalReplicas("SIGSTOP");
    expect(await connect({ waitReplicas: 0 }).pipelined([ping(partition(0))])).toEqual([
      { ok: true, value: "PONG" },
    ]);
    expect((await waits()).at(-1)).toBe(0);
  });

  test("a closed connection fails all calls", async () => {
    const replicated = connect();
    await replicated.pipelined([ping(partition(0))]);
    replicated.close();
    expect(await replicated.pipelined([ping(partition(0))])).toEqual([
      { ok: false, error: expect.any(Error) },
    ]);
  });

  test("only the results of a node without its replica are unconfirmed", async () => {
    const [first] = servers.replicas;
    process.kill(first?.pid ?? 0, "SIGSTOP");
    const all = Array.from({ length: 32 }, (_, number) => partition(number));
    const results = await connect().pipelined(all.map(ping));
    // A cluster's first node has the lower half of the slots.
    const confirmed = all.map((one) => name === "cluster" && slotOf(one) >= 8_192);
    expect(results.map(({ ok }) => ok)).toEqual(confirmed);
  });
});

test.each([
  [{ waitReplicas: -1 }, "waitReplicas is -1: expected an integer of 0 or more"],
  [{ waitReplicas: 0.5 }, "waitReplicas is 0.5"],
  [
    { waitTimeoutMs: 0 },
    "waitTimeoutMs is 0: expected an integer above 0 and below the command timeout of 5000 ms",
  ],
  [{ waitTimeoutMs: 1.5 }, "waitTimeoutMs is 1.5"],
  [{ waitTimeoutMs: 5_000 }, "waitTimeoutMs is 5000"],
])("the options %o are refused", (options, message) => {
  const connect = () =>
    new Valkey(
      { url: new URL("redis://127.0.0.1:9"), cluster: false },
      { onConnectionError: () => undefined },
    );
  const create = () => new ReplicatedValkey(connect, options);
  expect(create).toThrow(ConfigurationError);
  expect(create).toThrow(message);
});

function partition(number: number): Partition {
  return number as Partition;
}

function ping(where: Partition) {
  return command(where, "ping");
}

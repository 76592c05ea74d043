import { expect, test } from "vitest";
import { startValkey } from "#local/valkey-server.ts";
import { connect } from "#sdk/connect.ts";
import { command, type ValkeyResult } from "#shared/contract/command.ts";
import { type Partition, parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { PARTITION_CONFIG_KEY } from "#shared/contract/keys.ts";
import { ConfigurationError, NotReplicatedError, ValkeyError } from "#shared/errors.ts";
import { connectTo } from "#test/support/valkey.ts";

const QUEUE = "http://127.0.0.1:9/000000000000/completions";
const PING = [command(0 as Partition, "ping")];

async function startServer() {
  const server = await startValkey();
  return { server, environment: { VALKEY_URL: server.url.href, COMPLETIONS_QUEUE_URL: QUEUE } };
}

/** Valkey's own count of client connections, apart from the one that asks. */
async function connectionsOf(url: URL): Promise<number> {
  const valkey = connectTo({ url, cluster: false });
  try {
    return (
      String(await valkey.call("client", "list"))
        .trim()
        .split("\n").length - 1
    );
  } finally {
    valkey.close();
  }
}

test("connect loads the library, and reads the number of partitions from the environment", async () => {
  const { server, environment } = await startServer();
  await using _ = server;
  using sluice = await connect({ ...environment, FLOW_PARTITIONS: "16" });
  const [version]: ValkeyResult[] = await sluice.valkey.pipelined([
    command(0 as Partition, "fcall", "ff_version", 0),
  ]);
  expect(version).toMatchObject({ ok: true });
  expect(sluice.router.numFlowPartitions).toBe(16);
  expect(sluice.replicated).toBe(sluice.valkey);
});

test("connect announces executions in the queues of READY_QUEUES", async () => {
  const { server, environment } = await startServer();
  await using _ = server;
  using without = await connect(environment);
  expect(without.ready).toBeUndefined();
  const queues = { images: "http://127.0.0.1:9/000000000000/images" };
  using sluice = await connect({ ...environment, READY_QUEUES: JSON.stringify(queues) });
  const announced = ["images", "default"].map((lane) => sluice.ready?.announces(unwrap(parseLaneId(lane))));
  expect(announced).toEqual([true, false]);
  const misread = connect({ ...environment, READY_QUEUES: "images" });
  await expect(misread).rejects.toThrow("READY_QUEUES is not a JSON object");
});

test("connect lists every missing or invalid variable", async () => {
  const error = await connect({ FLOW_PARTITIONS: "many" }).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(ConfigurationError);
  const { errors } = error as ConfigurationError;
  for (const name of ["VALKEY_URL", "COMPLETIONS_QUEUE_URL", "FLOW_PARTITIONS"]) {
    expect(errors.filter((one) => one.includes(name)).length, name).toBe(1);
  }
});

test("connect refuses data with another number of partitions, and leaves no connection", async () => {
  const { server, environment } = await startServer();
  await using _ = server;
  const valkey = connectTo({ url: server.url, cluster: false });
  await valkey.call("hset", PARTITION_CONFIG_KEY, "num_flow_partitions", 512);
  valkey.close();
  await expect(connect(environment)).rejects.toThrow(/set FLOW_PARTITIONS to the recorded count/);
  await expect.poll(() => connectionsOf(server.url)).toBe(0);
});

test("an option out of range is refused, and leaves no connection", async () => {
  const { server, environment } = await startServer();
  await using _ = server;
  await expect(connect(environment, { waitReplicas: -1 })).rejects.toThrow(/waitReplicas is -1/);
  await expect.poll(() => connectionsOf(server.url)).toBe(0);
});

test("with waitReplicas, a write through `replicated` needs a replica, and one through `valkey` does not", async () => {
  const { server, environment } = await startServer();
  await using _ = server;
  using sluice = await connect(environment, { waitReplicas: 1, waitTimeoutMs: 50 });
  expect(await sluice.valkey.pipelined(PING)).toMatchObject([{ ok: true }]);
  const [unconfirmed] = await sluice.replicated.pipelined(PING);
  expect(unconfirmed?.ok === false && unconfirmed.error).toBeInstanceOf(NotReplicatedError);
});

test("after close, calls fail and no connection is left", async () => {
  const { server, environment } = await startServer();
  await using _ = server;
  const sluice = await connect(environment, { waitReplicas: 1, waitTimeoutMs: 50 });
  sluice.close();
  sluice.close();
  const [result] = await sluice.valkey.pipelined(PING);
  expect(result?.ok === false && result.error).toBeInstanceOf(ValkeyError);
  await expect.poll(() => connectionsOf(server.url)).toBe(0);
});

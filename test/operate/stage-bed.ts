/**
 * A deployed stage on this machine: a Valkey with the users of access.json, queues, the built functions operate-read and
 * operate-write on AWS's runtime client, each as its own user, and a fake of the Lambda service in front of them.
 */

import { vi } from "vitest";
import type { FunctionProcess } from "#local/function-process.ts";
import type { Edition } from "#shared/contract/edition.ts";
import { DEFAULT_PARTITION_CONFIG, PartitionRouter } from "#shared/contract/partitions.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { builtFunction } from "#test/auth/built.ts";
import { accessOf, type Kind, SecuredValkey } from "#test/auth/secured.ts";
import { type EndedCommand, sluice } from "#test/cli/support.ts";
import { QueueProbe } from "#test/support/dispatch.ts";
import { FakeLambda } from "#test/support/fake-lambda.ts";
import { LANE } from "#test/support/flow-fixture.ts";
import { FunctionLogs } from "#test/support/function-logs.ts";
import { createReadyQueue } from "#test/support/ready.ts";
import { connectTo } from "#test/support/valkey.ts";

export const STAGE = "test";
const PASSWORD = "of-the-function";
const FLOW_PARTITIONS = 4;
export const ROUTER = new PartitionRouter({
  ...DEFAULT_PARTITION_CONFIG,
  numFlowPartitions: FLOW_PARTITIONS,
});

export const FUNCTIONS = ["operate-read", "operate-write"] as const;
export type FunctionName = (typeof FUNCTIONS)[number];

export class StageBed implements AsyncDisposable {
  readonly server: SecuredValkey;
  readonly admin: Valkey;
  readonly queue: QueueProbe;
  readonly lambda: FakeLambda;
  readonly logs = new FunctionLogs();
  readonly #functions: FunctionProcess[] = [];
  readonly #deployed = new Map<FunctionName, FunctionProcess>();
  readonly #readyQueues: string;

  private constructor(server: SecuredValkey, queue: QueueProbe, lambda: FakeLambda, readyQueues: string) {
    this.server = server;
    this.admin = connectTo(server.plain);
    this.queue = queue;
    this.lambda = lambda;
    this.#readyQueues = readyQueues;
  }

  static async start(kind: Kind, edition: Edition = 14): Promise<StageBed> {
    const server = await SecuredValkey.start(kind);
    const queue = await QueueProbe.start();
    const ready = JSON.stringify({ [LANE]: await createReadyQueue(queue.client, queue.queue) });
    const bed = new StageBed(server, queue, await FakeLambda.start(), ready);
    await ensureLibrary(bed.admin, edition);
    for (const name of FUNCTIONS) {
      await server.setUser(`sluice-${name}`, PASSWORD, accessOf(name));
      bed.deploy(name);
    }
    return bed;
  }

  /** The environment of a function, with its user. */
  environment(name: FunctionName): Record<string, string> {
    const { queue } = this.queue;
    return {
      ...queue.environment,
      ...this.server.as(`sluice-${name}`, PASSWORD),
      FLOW_PARTITIONS: String(FLOW_PARTITIONS),
      COMPLETIONS_QUEUE_URL: queue.queueUrl,
      DEAD_LETTER_QUEUE_URL: queue.deadLetterQueueUrl,
      READY_QUEUES: this.#readyQueues,
    };
  }

  /** Starts a function, and makes it that of the stage. */
  deploy(name: FunctionName, environment: Readonly<Record<string, string>> = {}): void {
    const fn = builtFunction(name, this.queue, { ...this.environment(name), ...environment }, this.logs.take);
    this.#functions.push(fn);
    this.#deployed.set(name, fn);
    this.lambda.deploy(`sluice-${STAGE}-${name}`, fn);
  }

  /** Invokes a function with any event. */
  invoke(name: FunctionName, event: unknown): Promise<unknown> {
    const fn = this.#deployed.get(name);
    if (fn === undefined) throw new Error(`${name} is not deployed`);
    return fn.invoke(event);
  }

  /** Runs `sluice <args> --stage test` in this process, with the fake service as AWS. */
  async sluice(...args: string[]): Promise<EndedCommand> {
    for (const [name, value] of Object.entries(this.lambda.environment)) vi.stubEnv(name, value);
    try {
      return await sluice([...args, "--stage", STAGE]);
    } finally {
      vi.unstubAllEnvs();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#functions.map((fn) => fn.stop()));
    await this.lambda[Symbol.asyncDispose]();
    await this.queue[Symbol.asyncDispose]();
    this.admin.close();
    await this.server[Symbol.asyncDispose]();
  }
}

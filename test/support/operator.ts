/** Runs commands that change state on a flow of their own, with a queue and a dispatcher. */

import { afterAll, beforeAll } from "vitest";
import type { Change, ChangeReport } from "#operate/change-report.ts";
import type { OperateContext } from "#operate/operation.ts";
import { checkConsistency } from "#shared/consistency/check.ts";
import type { Pipelines } from "#shared/contract/command.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { AUDIT_KEY } from "#shared/contract/keys.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import type { Environment } from "#shared/runtime/environment.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { serverTimeMs } from "#shared/valkey/server-time.ts";
import { environmentFor, parseOutput, sluice } from "#test/cli/support.ts";
import { type DispatchSetup, dispatchAll, dispatchSetup, stateOf } from "#test/support/dispatch.ts";
import { type FlowFixture, ROUTER } from "#test/support/flow-fixture.ts";
import { TEST_PARTITIONS } from "#test/support/partition-allocator.ts";
import type { Deployment } from "#test/support/valkey.ts";

/** An operator at a deployment. */
export class Operator {
  readonly #deployment: Deployment;
  readonly #setup: DispatchSetup;

  constructor(deployment: Deployment, setup: DispatchSetup) {
    this.#deployment = deployment;
    this.#setup = setup;
  }

  get valkey(): Valkey {
    return this.#setup.valkey;
  }

  get environment(): Environment {
    return {
      ...environmentFor(this.#deployment),
      FLOW_PARTITIONS: String(TEST_PARTITIONS),
      LIBRARY_EDITION: String(this.#deployment.edition),
      COMPLETIONS_QUEUE_URL: this.#setup.queue.queue.queueUrl,
    };
  }

  flow(): FlowFixture {
    return this.#setup.flow();
  }

  /** Runs a command with `--json`. Returns the entries of its report, and the exit code. */
  async run(
    command: string,
    ...args: string[]
  ): Promise<{ readonly code: number; readonly changes: Change[] }> {
    const line = [...command.split(" "), ...args, "--json"];
    const { code, stdout, stderr } = await sluice(line, { environment: this.environment });
    if (stdout === "") throw new Error(`exit code ${code}: ${stderr}`);
    const report: ChangeReport = parseOutput(command, stdout);
    return { code, changes: report.changes };
  }

  /** The context of an operation, with a client that may fail. */
  context(valkey: Pipelines = this.valkey): OperateContext {
    const { client, queue } = this.#setup.queue;
    return {
      valkey: valkey as Valkey,
      router: ROUTER,
      edition: this.#deployment.edition,
      sqs: client,
      queues: { completions: queue.queueUrl, ready: new Map() },
      completions: new SqsCompletionPublisher(client, queue.queueUrl),
      ready: undefined,
      environment: this.environment,
      actor: "tests",
      deadlineMs: Number.POSITIVE_INFINITY,
    };
  }

  /** Dispatches the messages of the queue, and those that this sends, until none is left. Returns how many there were. */
  async dispatch(): Promise<number> {
    for (let count = 0; ; ) {
      const events = await this.#setup.queue.drainEvents();
      if (events.length === 0) return count;
      count += events.length;
      const errors = (await dispatchAll(this.#setup.ports(), events)).flat();
      if (errors[0] !== undefined) throw errors[0];
    }
  }

  /** Sends the completion of a failed member, as its worker did before. */
  async publish({ id }: ExecKeys, { flow }: FlowFixture): Promise<void> {
    const completion = { executionId: id, flowId: flow.id, outcome: "failed", depth: 0, root: id };
    await this.context().completions?.send([completion]);
  }

  /** The ids whose completions are in the queue, which is empty then. */
  async completions(): Promise<string[]> {
    return (await this.#setup.queue.drainEvents()).map(({ executionId }) => executionId);
  }

  /** What is inconsistent in the partition of a flow: nothing, after any command. */
  findings({ flow: { partition } }: FlowFixture): Promise<unknown[]> {
    return checkConsistency({ valkey: this.valkey }, { partition, settleMs: 0 });
  }

  /** How many audit entries name this target. */
  async auditEntries(target: string): Promise<number> {
    const entries = await this.valkey.call("xrange", AUDIT_KEY, "-", "+");
    return (entries as readonly [string, readonly string[]][]).filter(([, fields]) =>
      fields.some((text) => text.includes(target)),
    ).length;
  }
}

/** Within a `describe`: an operator at the deployment. */
export function operatorAt(deployment: Deployment): Operator {
  const setup = dispatchSetup(deployment);
  const operator = new Operator(deployment, setup);
  const before = { ...process.env };
  // The AWS SDK reads the variables of the process.
  beforeAll(() => {
    Object.assign(process.env, setup.queue.queue.environment);
  });
  afterAll(() => {
    process.env = before;
  });
  return operator;
}

export async function statesOf(flow: FlowFixture, members: readonly ExecKeys[]): Promise<string[]> {
  return Promise.all(members.map((keys) => stateOf(flow, keys)));
}

/** Claims an execution for a worker that is lost: its lease is over. */
export async function claimAndLose(flow: FlowFixture, keys: ExecKeys): Promise<void> {
  await flow.claim(keys, 1);
  const expiresAt = Number(await flow.read("hget", keys.core, "lease_expires_at"));
  // By the server's clock.
  while (serverTimeMs(await flow.read("time")) <= expiresAt);
}

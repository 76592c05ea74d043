/** Fixtures for tests of submissions and workers: workflows, a recording publisher and intercepted pipelines. */

import type { Task, Workflow, WorkflowEdge } from "#sdk/submission/workflow.ts";
import { command, type Pipelines, type ValkeyCommand, type ValkeyResult } from "#shared/contract/command.ts";
import { type ExecutionId, parseLaneId, unwrap } from "#shared/contract/ids.ts";
import type { Completion } from "#shared/contract/message.ts";
import { fieldText } from "#shared/contract/record.ts";
import type { SendResult } from "#shared/queue/batch-sender.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import { ROUTER } from "#test/support/flow-fixture.ts";

export const LANE = unwrap(parseLaneId("default"));

export function task(id: string, overrides: Partial<Task> = {}): Task {
  return { id, lane: LANE, priority: 0, payload: `input of ${id}`, ...overrides };
}

/** A workflow from edges like `a>b`, or `a=>b` with data passing. Its tasks are the names in the edges. */
export function workflowOf(...edges: string[]): Workflow {
  const parsed = edges.map((text): WorkflowEdge => {
    const [from = "", to = ""] = text.split(/=?>/);
    return { from, to, dataPassing: text.includes("=>") };
  });
  const ids = new Set(parsed.flatMap(({ from, to }) => [from, to]));
  return { name: "test", tasks: [...ids].map((id) => task(id)), edges: parsed };
}

/** Records the completions that it accepts. `results` decides which sends fail; all succeed by default. */
export class RecordingPublisher implements CompletionPublisher {
  readonly sent: Completion[] = [];
  readonly #results: (completion: Completion, attempt: number) => SendResult;
  #attempts = 0;

  constructor(results: (completion: Completion, attempt: number) => SendResult = () => ({ ok: true })) {
    this.#results = results;
  }

  send(completions: readonly Completion[]): Promise<SendResult[]> {
    this.#attempts += 1;
    return Promise.resolve(
      completions.map((completion) => {
        const result = this.#results(completion, this.#attempts);
        if (result.ok) this.sent.push(completion);
        return result;
      }),
    );
  }

  get executionIds(): ExecutionId[] {
    return this.sent.map(({ executionId }) => executionId);
  }
}

export type Interceptor = (
  /** 1 for the first pipeline. */
  call: number,
  send: () => Promise<ValkeyResult[]>,
  commands: readonly ValkeyCommand[],
) => Promise<ValkeyResult[]>;

/** Pipelines to the real server. `intercept` can act before and after each one, or replace its results. */
export class InterceptedPipelines implements Pipelines {
  readonly #inner: Pipelines;
  readonly #intercept: Interceptor;
  calls = 0;

  constructor(inner: Pipelines, intercept: Interceptor) {
    this.#inner = inner;
    this.#intercept = intercept;
  }

  pipelined(commands: readonly ValkeyCommand[]): Promise<ValkeyResult[]> {
    this.calls += 1;
    return this.#intercept(this.calls, () => this.#inner.pipelined(commands), commands);
  }
}

/** Reads some fields of an execution's record. */
export async function recordOf(
  valkey: Pipelines,
  id: ExecutionId,
  ...fields: string[]
): Promise<Record<string, string>> {
  const { core, partition } = ROUTER.execKeys(id);
  const [result] = await valkey.pipelined([command(partition, "hmget", core, ...fields)]);
  if (!result?.ok) throw result?.error ?? new Error("no result");
  const values: readonly unknown[] = Array.isArray(result.value) ? result.value : [];
  return Object.fromEntries(fields.map((field, position) => [field, fieldText(values[position])]));
}

/** Runs operations on a test deployment. */

import type { Operation } from "#operate/operation.ts";
import { runOperation } from "#operate/run-operation.ts";
import { type OperateServices, openServices, readOperateConfig } from "#operate/services.ts";
import { RecordingPublisher } from "#test/submission/fixture.ts";
import { asOperator } from "#test/support/operators.ts";
import type { Deployment } from "#test/support/valkey.ts";

export interface OperationRunner extends Disposable {
  readonly services: OperateServices;
  /** The completions that operations have sent. */
  readonly completions: RecordingPublisher;
  run<Input, Output>(operation: Operation<Input, Output>, input: unknown): Promise<Output>;
}

/**
 * Connects to the deployment. Each operation runs as the Valkey user of its function, and `services` are an administrator's.
 * Completions are recorded, and no lane has a ready queue.
 */
export async function operationRunner({ address }: Deployment): Promise<OperationRunner> {
  const completions = new RecordingPublisher();
  const open = async (url: string): Promise<OperateServices> => {
    const config = readOperateConfig({ VALKEY_URL: url, VALKEY_CLUSTER_MODE: String(address.cluster) });
    const opened = await openServices(config, (error) => {
      throw error;
    });
    return { ...opened, completions };
  };
  const { href } = address.url;
  const [services, read, write] = await Promise.all([
    open(href),
    asOperator("read", address).then(open),
    asOperator("write", address).then(open),
  ]);
  const byAccess = { read, write };
  return {
    services,
    completions,
    run: (operation, input) =>
      runOperation(operation, byAccess[operation.access], input, {
        actor: "test@machine",
        deadlineMs: Date.now() + 60_000,
      }),
    [Symbol.dispose]: () => {
      for (const opened of [services, read, write]) opened.close();
    },
  };
}

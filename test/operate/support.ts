/** Runs operations on a test deployment. */

import type { Operation } from "#operate/operation.ts";
import { runOperation } from "#operate/run-operation.ts";
import { type OperateServices, openServices, readOperateConfig } from "#operate/services.ts";
import { RecordingPublisher } from "#test/submission/fixture.ts";
import type { Deployment } from "#test/support/valkey.ts";

export interface OperationRunner extends Disposable {
  readonly services: OperateServices;
  /** The completions that operations have sent. */
  readonly completions: RecordingPublisher;
  run<Input, Output>(operation: Operation<Input, Output>, input: unknown): Promise<Output>;
}

/** Connects to the deployment. Completions are recorded, and no lane has a ready queue. */
export async function operationRunner({ address }: Deployment): Promise<OperationRunner> {
  const config = readOperateConfig({
    VALKEY_URL: address.url.href,
    VALKEY_CLUSTER_MODE: String(address.cluster),
  });
  const completions = new RecordingPublisher();
  const opened = await openServices(config, (error) => {
    throw error;
  });
  const services = { ...opened, completions };
  return {
    services,
    completions,
    run: (operation, input) =>
      runOperation(operation, services, input, { actor: "test@machine", deadlineMs: Date.now() + 60_000 }),
    [Symbol.dispose]: () => services.close(),
  };
}

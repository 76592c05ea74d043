import { recordAudit } from "#operate/audit.ts";
import type { OperateContext, Operation, WriteInput } from "#operate/operation.ts";
import type { OperateServices } from "#operate/services.ts";
import { InvalidRequestError } from "#shared/errors.ts";

/** Who runs an operation, and until when. */
export interface Call {
  readonly actor: string;
  /** `Date.now()` at which it must have answered. */
  readonly deadlineMs: number;
}

/**
 * Runs an operation: checks the input, and the partition count unless the operation reports a wrong one itself. The first
 * page of a change is recorded in the audit trail before the operation runs; a dry run is not.
 *
 * @throws InvalidRequestError if the input is invalid. Its errors name the properties.
 * @throws ConfigurationError if the recorded partition count differs from the configured one.
 */
export async function runOperation<Input, Output>(
  operation: Operation<Input, Output>,
  services: OperateServices,
  input: unknown,
  call: Call,
): Promise<Output> {
  const parsed = operation.input.safeParse(input);
  if (!parsed.success) {
    throw new InvalidRequestError(
      parsed.error.issues.map(({ path, message }) =>
        path.length === 0 ? message : `${path.join(".")}: ${message}`,
      ),
    );
  }
  const runsUnchecked = operation.access === "read" && operation.runsUnchecked === true;
  if (!runsUnchecked) await services.checkPartitions();
  let { edition } = services;
  if (operation.access === "write") {
    const { dry_run: isDryRun, cursor, reason } = parsed.data as Input & WriteInput;
    // One command makes one entry: that of its first page. It precedes every write, that of the library included.
    if (!isDryRun && cursor === undefined) {
      const target = operation.target(parsed.data);
      await recordAudit(services.valkey, { operation: operation.name, actor: call.actor, target, reason });
    }
    if (!isDryRun) edition ??= await services.ensureLibrary();
  }
  const context: OperateContext = { ...services, ...call, edition };
  return operation.run(context, parsed.data);
}

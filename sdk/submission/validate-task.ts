import type { ErrorList } from "#sdk/submission/error-list.ts";
import type { Task } from "#sdk/submission/workflow.ts";

/**
 * The largest payload of a task, in bytes: as the largest result of a worker. Payloads stay in Valkey's memory until the flow is
 * purged.
 */
const MAX_PAYLOAD_BYTES = 262_144;

/** Checks the size of a task's payload, and its settings that depend on each other or on its dependencies, and adds errors. */
export function checkTask(task: Task, dependencies: number, path: string, errors: ErrorList): void {
  const { delaySeconds = 0, deadline, waitFor, payload } = task;
  const bytes = Buffer.byteLength(payload);
  if (bytes > MAX_PAYLOAD_BYTES) {
    errors.add(
      `${path}.payload`,
      `has ${bytes} bytes, more than ${MAX_PAYLOAD_BYTES}: store it in S3, and pass its bucket and key`,
    );
  }
  if (typeof deadline === "number" && deadline <= delaySeconds) {
    errors.add(
      `${path}.deadline`,
      `must be later than the delay: the task would expire after ${deadline} s, and could not run before ${delaySeconds} s`,
    );
  }
  if (waitFor === undefined) return;
  if (dependencies === 0) {
    errors.add(`${path}.waitFor`, "needs dependencies: add them, or remove waitFor");
  } else if ((waitFor.quorum ?? 1) > dependencies) {
    errors.add(
      `${path}.waitFor.quorum`,
      `must be at most the number of dependencies, which is ${dependencies}`,
    );
  }
}

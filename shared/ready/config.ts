import { type LaneId, parseLaneId } from "#shared/contract/ids.ts";
import { parseJsonObject } from "#shared/contract/message.ts";
import { type Environment, isSet, readQueueUrl } from "#shared/runtime/environment.ts";

const NAME = "READY_QUEUES";
const EXAMPLE = '{"images": "https://sqs.<region>.amazonaws.com/<account>/<queue>"}';

/**
 * Reads `READY_QUEUES`: a JSON object of lanes and the URLs of their queues. Empty if the variable is not set: then no ready
 * message is sent, and workers poll. Problems are appended to `errors`.
 */
export function readReadyQueues(env: Environment, errors: string[]): ReadonlyMap<LaneId, string> {
  const queues = new Map<LaneId, string>();
  if (!isSet(env, NAME)) return queues;
  const value = parseJsonObject(env[NAME] ?? "");
  if (value === undefined) {
    errors.push(`${NAME} is not a JSON object of lanes and queue URLs: expected ${EXAMPLE}`);
    return queues;
  }
  for (const [name, url] of Object.entries(value)) {
    const lane = parseLaneId(name);
    if (!lane.ok) errors.push(`${NAME}: ${lane.error.message}`);
    else if (typeof url !== "string")
      errors.push(`${NAME}: the queue of lane ${name} is not a string: expected ${EXAMPLE}`);
    else
      queues.set(
        lane.value,
        readQueueUrl({ [`${NAME} of lane ${name}`]: url }, `${NAME} of lane ${name}`, errors),
      );
  }
  return queues;
}

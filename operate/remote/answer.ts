/** Answers one request of the command in a function. */

import type { Operation } from "#operate/operation.ts";
import {
  MAX_PAYLOAD_BYTES,
  type REFUSALS,
  type RemoteAnswer,
  type RemoteRequest,
  remoteRequest,
} from "#operate/remote/protocol.ts";
import { type Call, runOperation } from "#operate/run-operation.ts";
import type { OperateServices } from "#operate/services.ts";
import { InvalidRequestError } from "#shared/errors.ts";
import { METRICS, type Telemetry } from "#shared/runtime/telemetry.ts";
import { VERSION } from "#shared/runtime/version.ts";

/** A function that answers requests, in one invocation. */
export interface Host {
  readonly functionName: string;
  /** The only operations that it can run. */
  readonly operations: readonly Operation<unknown, unknown>[];
  /** Called for valid requests only. */
  readonly services: () => Promise<OperateServices>;
  readonly telemetry: Telemetry;
  /** The id of the invocation, under which CloudTrail records the principal that invoked the function. */
  readonly requestId: string;
  readonly deadlineMs: number;
}

type Refusal = (typeof REFUSALS)[number];

/**
 * Runs the operation that `event` names. Refuses what the caller can correct. Logs who asked for which operation, and never the
 * input or the answer, which may contain payloads.
 *
 * @throws the error of an operation that failed. Lambda passes its name and message to the caller.
 */
export async function answerRequest(host: Host, event: unknown): Promise<RemoteAnswer> {
  const parsed = remoteRequest.safeParse(event);
  if (!parsed.success) {
    const errors = parsed.error.issues.map(({ path, message }) => `${path.join(".") || "event"}: ${message}`);
    host.telemetry.warn("request refused", { code: "invalid_request", errors });
    return refusal("invalid_request", errors);
  }
  const { operation: name, actor } = parsed.data;
  const startedAt = performance.now();
  host.telemetry.info("operation started", { operation: name, actor });
  const answer = await answered(host, parsed.data);
  const durationMs = Math.round(performance.now() - startedAt);
  const fields = { operation: name, actor, duration_ms: durationMs };
  if (answer.ok) host.telemetry.info("operation answered", { ...fields, bytes: bytesOf(answer) });
  else host.telemetry.warn("operation refused", { ...fields, code: answer.code });
  return answer;
}

async function answered(host: Host, request: RemoteRequest): Promise<RemoteAnswer> {
  const { functionName, operations, telemetry } = host;
  if (request.version !== VERSION) {
    return refusal("other_version", [
      `the function ${functionName} has version ${VERSION}, and this command has version ${request.version}: ` +
        `deploy the stage with version ${request.version}, or use the command of version ${VERSION}`,
    ]);
  }
  const operation = operations.find(({ name }) => name === request.operation);
  if (operation === undefined) {
    return refusal("invalid_request", [`${functionName} has no operation "${request.operation}"`]);
  }
  try {
    telemetry.count(METRICS.operationsRun);
    const output = await runOperation(operation, await host.services(), request.input, callOf(host, request));
    countChanges(output, telemetry);
    const answer: RemoteAnswer = { version: VERSION, ok: true, output };
    return bytesOf(answer) <= MAX_PAYLOAD_BYTES ? answer : tooLarge(operation, request, bytesOf(answer));
  } catch (error) {
    if (error instanceof InvalidRequestError) return refusal("invalid_request", error.errors);
    throw error;
  }
}

/** The audit trail names the request too: the name of the actor is a claim, and CloudTrail has the proof under this id. */
function callOf({ requestId, deadlineMs }: Host, { actor }: RemoteRequest): Call {
  return { actor: `${actor}, request ${requestId}`, deadlineMs };
}

function tooLarge(
  { access, name }: Operation<unknown, unknown>,
  { input }: RemoteRequest,
  bytes: number,
): RemoteAnswer {
  const hasChanged = access === "write" && Object(input).dry_run !== true;
  const done = hasChanged ? "The changes were made: `sluice audit` shows the command. " : "";
  return refusal("answer_too_large", [
    `the answer of ${name} has ${bytes} bytes, and Lambda returns at most ${MAX_PAYLOAD_BYTES}. ` +
      `${done}Ask for fewer entries: a smaller --limit, or a narrower filter`,
  ]);
}

function countChanges(output: unknown, { count }: Telemetry): void {
  const changes: unknown = Object(output).changes;
  if (!Array.isArray(changes)) return;
  const withStatus = (status: string): number =>
    changes.filter((change) => Object(change).status === status).length;
  const [made, failed] = [withStatus("changed"), withStatus("failed")];
  if (made > 0) count(METRICS.changesMade, made);
  if (failed > 0) count(METRICS.changesFailed, failed);
}

function refusal(code: Refusal, errors: readonly string[]): RemoteAnswer {
  return { version: VERSION, ok: false, code, errors: [...errors] };
}

function bytesOf(answer: RemoteAnswer): number {
  return Buffer.byteLength(JSON.stringify(answer));
}

/** Runs operations in the functions `operate-read` and `operate-write` of a deployed stage. */

import { setTimeout as sleep } from "node:timers/promises";
import { InvokeCommand, type InvokeCommandOutput, LambdaClient } from "@aws-sdk/client-lambda";
import { describeFailure, OperateError, type Wait, waitFor } from "#cli/kit/remote-errors.ts";
import type { Runner } from "#cli/kit/runner.ts";
import type { Operation } from "#operate/operation.ts";
import {
  FUNCTION_NAMES,
  MAX_PAYLOAD_BYTES,
  type RemoteAnswer,
  type RemoteRequest,
  remoteAnswer,
} from "#operate/remote/protocol.ts";
import { parseJsonObject } from "#shared/contract/message.ts";
import { ConfigurationError, InvalidRequestError, messageOf } from "#shared/errors.ts";
import { VERSION } from "#shared/runtime/version.ts";

/** Longer than the functions' timeout. Milliseconds. */
const REQUEST_TIMEOUT_MS = 75_000;
const CONNECTION_TIMEOUT_MS = 5_000;
/** How long a request is repeated that Lambda refuses for the moment, and how often. Milliseconds. */
const WAITS: Readonly<
  Record<Wait, { readonly forMs: number; readonly everyMs: number; readonly note: string }>
> = {
  busy: { forMs: 10_000, everyMs: 500, note: "the function is busy, waiting" },
  waking: {
    forMs: 180_000,
    everyMs: 1_000,
    note: "the function was not used for weeks: Lambda restores its network, which takes a minute or two",
  },
};
const STAGE = /^[a-z][a-z0-9]*(?:-[a-z0-9]+)*$/;
const MAX_SHOWN_LENGTH = 500;

export interface RemoteOptions {
  readonly stage: string;
  /** Undefined: the region of the AWS SDK's environment or profile. */
  readonly region: string | undefined;
  readonly actor: string;
  readonly signal: AbortSignal;
  /** Tells the operator why a command takes long. */
  readonly note: (line: string) => void;
}

interface Target extends RemoteOptions {
  readonly client: LambdaClient;
  readonly functionName: string;
  readonly isWrite: boolean;
}

/** Region, credentials and endpoint come from the AWS SDK's environment variables and profiles, as for the AWS CLI. */
export function openRemoteRunner(options: RemoteOptions): Runner {
  if (!STAGE.test(options.stage)) {
    throw new InvalidRequestError([
      `--stage is "${options.stage}": expected the name of a deployed stage, such as prod`,
    ]);
  }
  const client = new LambdaClient({
    ...(options.region === undefined ? {} : { region: options.region }),
    // A repeated request could make a change twice. `invoke` repeats those that certainly did not run.
    maxAttempts: 1,
    requestHandler: {
      connectionTimeout: CONNECTION_TIMEOUT_MS,
      requestTimeout: REQUEST_TIMEOUT_MS,
      throwOnRequestTimeout: true,
    },
  });
  return {
    run: (operation, input) => {
      const functionName = `sluice-${options.stage}-${FUNCTION_NAMES[operation.access]}`;
      return run(
        { ...options, client, functionName, isWrite: operation.access === "write" },
        operation,
        input,
      );
    },
    [Symbol.dispose]: () => client.destroy(),
  };
}

async function run<Input, Output>(
  target: Target,
  operation: Operation<Input, Output>,
  input: unknown,
): Promise<Output> {
  const { functionName, actor } = target;
  const { answer, requestId } = await invoke(target, {
    version: VERSION,
    operation: operation.name,
    input,
    actor,
  });
  if (answer.ok) {
    const parsed = operation.output.safeParse(answer.output);
    if (parsed.success) return parsed.data;
    const issues = parsed.error.issues.map(({ path, message }) => `${path.join(".")}: ${message}`);
    throw new OperateError(
      `${functionName} returned a malformed answer (${issues.join(", ")}), request ${requestId}`,
    );
  }
  switch (answer.code) {
    case "answer_too_large": {
      const shorter = withShorterPage(operation, input);
      if (shorter !== undefined) return run(target, operation, shorter);
      throw new OperateError(answer.errors.join(", "));
    }
    case "other_version":
      throw new ConfigurationError(answer.errors);
    case "invalid_request":
      throw new InvalidRequestError(answer.errors);
  }
}

/** The input with half of its `limit`, or undefined if the page cannot be shorter. A change is never asked for twice. */
function withShorterPage<Input, Output>(
  { access, input }: Operation<Input, Output>,
  asked: unknown,
): object | undefined {
  const parsed: unknown = input.safeParse(asked).data;
  const limit: unknown = Object(parsed).limit;
  if (access === "write" || typeof limit !== "number" || limit < 2) return undefined;
  return { ...Object(parsed), limit: Math.floor(limit / 2) };
}

interface Answered {
  readonly answer: RemoteAnswer;
  readonly requestId: string;
}

async function invoke(target: Target, request: RemoteRequest): Promise<Answered> {
  const { functionName } = target;
  const payload = JSON.stringify(request);
  const bytes = Buffer.byteLength(payload);
  if (bytes > MAX_PAYLOAD_BYTES) {
    throw new InvalidRequestError([
      `the input has ${bytes} bytes, and Lambda accepts at most ${MAX_PAYLOAD_BYTES}: ` +
        "run the command where it reaches Valkey, with --valkey-url",
    ]);
  }
  const response = await send(target, payload);
  const requestId = response.$metadata.requestId ?? "unknown";
  const text = response.Payload?.transformToString() ?? "";
  if (response.FunctionError !== undefined) throw failureOf(target, text, requestId);
  const fields = parseJsonObject(text);
  // Before the form of the answer is checked: another version may have another one.
  if (typeof fields?.version === "string" && fields.version !== VERSION) {
    throw new ConfigurationError([
      `the function ${functionName} has version ${fields.version}, and this command has version ${VERSION}: ` +
        `deploy the stage with version ${VERSION}, or use the command of version ${fields.version}`,
    ]);
  }
  const answer = remoteAnswer.safeParse(fields);
  if (answer.success) return { answer: answer.data, requestId };
  throw new OperateError(
    `${functionName} returned no answer of this command: ${text.slice(0, MAX_SHOWN_LENGTH)}, request ${requestId}`,
  );
}

/** Repeats a request while Lambda refuses it for the moment, before the function runs. */
async function send(target: Target, payload: string): Promise<InvokeCommandOutput> {
  const { client, functionName, isWrite, signal, note } = target;
  const region = await regionOf(client);
  const startedAt = performance.now();
  let noted: Wait | undefined;
  for (;;) {
    try {
      const command = new InvokeCommand({ FunctionName: functionName, Payload: payload });
      return await client.send(command, { abortSignal: signal });
    } catch (error) {
      const wait = waitFor(error);
      if (signal.aborted || wait === undefined || performance.now() - startedAt > WAITS[wait].forMs) {
        throw describeFailure(error, functionName, region, isWrite);
      }
      if (noted !== wait) note(`sluice: ${WAITS[wait].note}`);
      noted = wait;
      await sleep(WAITS[wait].everyMs, undefined, { signal });
    }
  }
}

async function regionOf(client: LambdaClient): Promise<string> {
  try {
    return await client.config.region();
  } catch (error) {
    throw new ConfigurationError([
      `no AWS region is known (${messageOf(error)}): pass --region, or set AWS_REGION or AWS_PROFILE`,
    ]);
  }
}

/** The function threw, or ran out of time. */
function failureOf({ functionName, isWrite }: Target, payload: string, requestId: string): OperateError {
  const { errorType, errorMessage } = parseJsonObject(payload) ?? {};
  const reason =
    typeof errorMessage === "string"
      ? `${String(errorType)}: ${errorMessage}`
      : payload.slice(0, MAX_SHOWN_LENGTH);
  return new OperateError(
    `${functionName} failed with ${reason}. Its log has the details under the request ${requestId}` +
      (isWrite ? "; changes may have been made, `sluice audit` shows whether they began" : ""),
  );
}

/**
 * A minimal Lambda runtime: loads a bundle and passes it one event at a time. `FunctionProcess` starts it in a child
 * process. Arguments: the path of the bundle, the name of the function, its memory in MB.
 */

import { pathToFileURL } from "node:url";
import type { Context } from "aws-lambda";
import {
  type FunctionMessage,
  type InvocationMessage,
  isInvocation,
  type RemoteError,
} from "#local/function-messages.ts";

type Handler = (event: unknown, context: Context) => unknown;

const [bundle = "", functionName = "", memoryLimitInMB = ""] = process.argv.slice(2);

// The parent process has ended, so nothing else would end this one.
process.on("disconnect", () => process.exit(0));

try {
  const handler = await loadHandler(bundle);
  process.on("message", (message: unknown) => {
    // One event at a time: the parent waits for the response before it sends the next event.
    if (isInvocation(message)) void answer(handler, message);
  });
  reply({ type: "ready" });
} catch (error) {
  console.error(error);
  reply({ type: "unusable", error: remoteErrorOf(error) });
}

async function loadHandler(path: string): Promise<Handler> {
  const loaded: unknown = await import(pathToFileURL(path).href);
  const handler = isRecord(loaded) ? loaded.handler : undefined;
  if (typeof handler !== "function") throw new TypeError(`${path} has no export named "handler"`);
  return (event, context) => handler(event, context);
}

async function answer(handler: Handler, invocation: InvocationMessage): Promise<void> {
  const { requestId, event } = invocation;
  try {
    const value = await handler(event, contextOf(invocation));
    // As in Lambda, a response is JSON: undefined becomes null.
    reply({ type: "answer", requestId, json: JSON.stringify(value ?? null) });
  } catch (error) {
    console.error(error);
    reply({ type: "error", requestId, error: remoteErrorOf(error) });
  }
}

function contextOf({ requestId, deadlineMs }: InvocationMessage): Context {
  return {
    callbackWaitsForEmptyEventLoop: false,
    functionName,
    functionVersion: "$LATEST",
    invokedFunctionArn: `arn:aws:lambda:us-east-1:000000000000:function:${functionName}`,
    memoryLimitInMB,
    awsRequestId: requestId,
    logGroupName: `/aws/lambda/${functionName}`,
    logStreamName: `local/${process.pid}`,
    getRemainingTimeInMillis: () => Math.max(0, deadlineMs - Date.now()),
    done: unsupported,
    fail: unsupported,
    succeed: unsupported,
  };
}

function unsupported(): never {
  throw new Error("callbacks are not supported since Node.js 24 in Lambda: return or throw instead");
}

function reply(message: FunctionMessage): void {
  process.send?.(message);
}

function remoteErrorOf(error: unknown): RemoteError {
  return error instanceof Error
    ? { name: error.name, message: error.message, stack: error.stack ?? "" }
    : { name: "Error", message: String(error), stack: "" };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

/**
 * Replaces the native HTTP part of AWS's runtime client (`rapid-client.node` of aws-lambda-ric), which exists only if
 * the installation of the package had a compiler. The rest of the runtime client is AWS's code.
 *
 * Preload it with --import: the runtime client then gets this module in place of its native part.
 */

import { Agent, type IncomingHttpHeaders, request } from "node:http";
import { registerHooks } from "node:module";
import { text } from "node:stream/consumers";

const NATIVE_PART = "./rapid-client.node";
const INVOCATION = "/2018-06-01/runtime/invocation";

registerHooks({
  resolve: (specifier, context, nextResolve) =>
    specifier === NATIVE_PART
      ? { url: import.meta.url, format: "module-typescript", shortCircuit: true }
      : nextResolve(specifier, context),
});

const agent = new Agent({ keepAlive: true, maxSockets: 1 });
/** The result in flight. The native client blocks until it is posted; here `next` waits for it. */
let posted: Promise<unknown> = Promise.resolve();

/** Requests the next event and its headers. */
export async function next(): Promise<{ bodyJson: string; headers: IncomingHttpHeaders }> {
  await posted;
  return call("GET", `${INVOCATION}/next`);
}

/** Posts a response in JSON. */
export function done(requestId: string, answer: string): void {
  posted = call("POST", `${INVOCATION}/${requestId}/response`, answer);
}

/** Posts an error in JSON, and its cause for X-Ray. */
export function error(requestId: string, body: string, xrayCause: string): void {
  posted = call("POST", `${INVOCATION}/${requestId}/error`, body, {
    "Lambda-Runtime-Function-XRay-Error-Cause": xrayCause,
  });
}

function call(
  method: string,
  path: string,
  body = "",
  headers: Readonly<Record<string, string>> = {},
): Promise<{ bodyJson: string; headers: IncomingHttpHeaders }> {
  const { hostname, port } = new URL(`http://${process.env.AWS_LAMBDA_RUNTIME_API}`);
  return new Promise((resolve, reject) => {
    request(
      { agent, hostname, port, method, path, headers: { "Content-Type": "application/json", ...headers } },
      (response) => {
        text(response).then(
          (bodyJson) => resolve({ bodyJson, headers: response.headers }),
          (cause: unknown) => reject(cause),
        );
      },
    )
      .on("error", reject)
      .end(body);
  });
}

/**
 * STANDS IN for the native HTTP client of AWS's runtime client (aws-lambda-ric's `rapid-client.node`), which is there
 * only where a compiler was when the package was installed. All the rest of the runtime client stays AWS's own.
 *
 * Loaded with --import: from then on this module is what the runtime client gets for its native part.
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
/** The result under way. The native client blocks until it is posted; this one has the next event wait for it. */
let posted: Promise<unknown> = Promise.resolve();

/** The next event, and the headers that came with it. */
export async function next(): Promise<{ bodyJson: string; headers: IncomingHttpHeaders }> {
  await posted;
  return call("GET", `${INVOCATION}/next`);
}

/** Posts an answer, which is JSON. */
export function done(requestId: string, answer: string): void {
  posted = call("POST", `${INVOCATION}/${requestId}/response`, answer);
}

/** Posts an error, which is JSON, and what X-Ray is to know of it. */
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

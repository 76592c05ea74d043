/**
 * Loads every module of an unpacked artifact, invokes its handler once, and reports the environment variables that were
 * read. `recorded` starts it with the folder of the artifact and the module of the handler as arguments.
 */

import { readdirSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder = "", handlerModule = ""] = process.argv.slice(2);
const reads = new Set<string>();
const note = (name: string | symbol): void => {
  if (typeof name === "string") reads.add(name);
};
process.env = new Proxy(process.env, {
  get: (target, name) => {
    note(name);
    return Reflect.get(target, name);
  },
  has: (target, name) => {
    note(name);
    return Reflect.has(target, name);
  },
  ownKeys: () => {
    throw new Error("the environment was enumerated, so the variables that were read are unknown");
  },
});

/** An address without a server: the functions only need to read their configuration. */
const EVENT = { RequestType: "Create", ResponseURL: "http://127.0.0.1:9/" };
const CONTEXT = { getRemainingTimeInMillis: () => 2_000, awsRequestId: "recorded", functionName: "recorded" };

const { handler }: { handler?: unknown } = await import(pathToFileURL(join(folder, handlerModule)).href);
let failure = typeof handler === "function" ? "" : "the module has no handler";
if (typeof handler === "function") {
  try {
    await handler(EVENT, CONTEXT);
  } catch (error) {
    failure = String(error);
  }
}
const modules = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((path) =>
  path.endsWith(".mjs"),
);
const unloadable: string[] = [];
for (const path of modules) {
  try {
    await import(pathToFileURL(join(folder, path)).href);
  } catch (error) {
    // The build replaces modules that no function needs with ones that throw.
    if (!String(error).includes("is left out of the functions' bundles"))
      unloadable.push(`${path}: ${error}`);
  }
}
process.send?.({ reads: [...reads], unloadable, failure });
process.disconnect();

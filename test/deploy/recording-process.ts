/**
 * Loads every module of an unpacked artifact, hands its handler one event, and tells which environment variables were
 * read. Started by `recorded`, with the artifact's folder and the handler's module as arguments.
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
    throw new Error("all of the environment was listed: nobody can tell what was read");
  },
});

/** Nobody answers there, and no function needs more than its configuration. */
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
    // The build puts a module that only says so in the place of what no function needs.
    if (!String(error).includes("is left out of the functions' bundles"))
      unloadable.push(`${path}: ${error}`);
  }
}
process.send?.({ reads: [...reads], unloadable, failure });
process.disconnect();

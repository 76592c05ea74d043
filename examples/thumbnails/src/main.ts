/** `npm start`: runs the workflow on this machine, with a container worker in this process. */

import { mkdir } from "node:fs/promises";
import { startTestStack } from "sluice/testing";
import { containerWorker } from "sluice/worker";
import { writeSamples } from "./samples.ts";
import { listOriginals } from "./storage.ts";
import { tasks } from "./tasks.ts";
import { thumbnailWorkflow } from "./workflow.ts";

process.env.IMAGES_FOLDER ??= "images";
await mkdir(process.env.IMAGES_FOLDER, { recursive: true });
const found = await listOriginals();
const keys = found.length > 0 ? found : await writeSamples(6);

await using stack = await startTestStack({ lanes: ["images"] });
// What a container gets from its deployment.
Object.assign(process.env, stack.environment);
const stopping = new AbortController();
const working = containerWorker({ tasks, concurrency: { images: 4 } }).run(stopping.signal);

const ended = await stack.run(thumbnailWorkflow(keys));
for (const [task, { state, result, reason }] of ended.tasks) {
  console.log(task, state, reason === "" ? JSON.stringify(result) : reason);
}
stopping.abort();
await working;
if ([...ended.tasks.values()].some(({ state }) => state !== "success")) process.exitCode = 1;

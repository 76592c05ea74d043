import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/**
 * A fake function bundle. The first word of its first message, or of an event that is a string, selects what it does.
 */
const SOURCE = `
let events = 0;
export async function handler(event, context) {
  events += 1;
  const records = event?.Records ?? [];
  const [word, detail] = String(records[0]?.body ?? event).split(" ");
  const ids = records.map((record) => record.messageId);
  const fail = (...identifiers) => ({ batchItemFailures: identifiers.map((itemIdentifier) => ({ itemIdentifier })) });
  switch (word) {
    case "none": return fail();
    case "nothing": return undefined;
    case "null": return { batchItemFailures: null };
    case "first": return fail(ids[0]);
    case "unknown": return fail("00000000-0000-0000-0000-000000000000");
    case "empty": return fail("");
    case "missing": return { batchItemFailures: [{}] };
    case "throw": throw new RangeError("thrown on purpose");
    case "exit": return process.exit(Number(detail));
    case "reject": Promise.reject(new Error("unhandled")); return new Promise(() => {});
    case "hang": return new Promise(() => {});
    case "wait": return new Promise((resolve) => setTimeout(resolve, 3_600_000));
    case "spin": for (;;);
    case "log": console.log(detail); console.error("error " + detail); return null;
    case "env": return process.env[detail] ?? null;
    case "echo": return event;
    case "context": return {
      pid: process.pid, events, remaining: context.getRemainingTimeInMillis(), awsRequestId: context.awsRequestId,
      functionName: context.functionName, memoryLimitInMB: context.memoryLimitInMB,
    };
    default: throw new Error("unknown command " + word);
  }
}
`;

/** Writes a bundle to a temporary folder, which is removed when it is disposed of. `source` defaults to the fake. */
export async function writeBundle(source = SOURCE): Promise<AsyncDisposable & { readonly path: string }> {
  const folder = await mkdtemp(join(tmpdir(), "sluice-fake-function-"));
  const path = join(folder, "index.mjs");
  await writeFile(path, source);
  return { path, [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }) };
}

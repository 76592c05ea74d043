/**
 * Runs the reconciler's tasks without a write: it reads as a sweep does, answers each write and each call of a function as if it had
 * succeeded, and sends nothing. So the counts say what a sweep would ask for. The library checks each call again, so fewer may succeed.
 * What follows from a change is not counted: a lease that only seems to be marked is not announced.
 */

import type { ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import { KEPT } from "#shared/reconcile/outcome.ts";
import type { ReadyPorts } from "#shared/reconcile/run.ts";
import type { ReconcilerPorts } from "#shared/reconcile/sweep.ts";
import type { ReconcilerTask } from "#shared/reconcile/task.ts";
import type { TaskName } from "#shared/reconcile/task-names.ts";

/** The tasks that can be previewed. The others work until an index is empty, which it never is in a preview: they are counted. */
export const PREVIEWED: ReadonlySet<TaskName> = new Set([
  "leases",
  "timeouts",
  "delays",
  "dependencies",
  "ready",
]);

/** Commands that read. Every other one is not sent. */
const READS = new Set([
  "exists",
  "get",
  "hget",
  "hmget",
  "mget",
  "scard",
  "smembers",
  "sscan",
  "srandmember",
  "time",
  "zcard",
  "zcount",
  "zrange",
  "zrangebyscore",
  "zscan",
  "zscore",
]);

/** What the functions that the previewed tasks call reply if they change something. */
const REPLIES: Readonly<Record<string, readonly (string | number)[]>> = {
  ff_mark_lease_expired_if_due: [1, "OK", "marked_expired"],
  // Without a grant, it is only called to end what was reclaimed too often.
  ff_reclaim_execution: [0, "max_retries_exhausted"],
  ff_expire_execution: [1, "OK", "expired"],
  ff_promote_delayed: [1, "OK", "promoted"],
  ff_promote_blocked_to_eligible: [1, "OK"],
};

/** Reads, and answers everything else as if it had succeeded. */
export function previewValkey(valkey: ReconcilerPorts["valkey"]): ReconcilerPorts["valkey"] {
  return {
    call: valkey.call.bind(valkey),
    pipelined: async (commands) => {
      const reads = commands.filter(({ name }) => READS.has(name));
      const results = reads.length === 0 ? [] : await valkey.pipelined(reads);
      const answers = results.values();
      return commands.map(
        (one): ValkeyResult =>
          READS.has(one.name) ? (answers.next().value ?? NO_ANSWER) : { ok: true, value: replyOf(one) },
      );
    },
  };
}

/** Accepts completions, and sends none. */
export const PREVIEW_PUBLISHER: CompletionPublisher = {
  send: (completions) => Promise.resolve(completions.map(() => ({ ok: true }))),
};

/** Accepts ready messages, and sends none. */
export function previewReady({ publisher, backlogs }: ReadyPorts): ReadyPorts {
  return {
    backlogs,
    publisher: {
      announces: (lane) => publisher.announces(lane),
      announce: (ready) => Promise.resolve(ready.map(() => ({ ok: true }))),
    },
  };
}

const NO_ANSWER: ValkeyResult = { ok: false, error: new Error("the pipeline returned too few results") };

function replyOf({ name, args }: ValkeyCommand): unknown {
  if (name !== "fcall") return "OK";
  const reply = REPLIES[String(args[0])];
  if (reply === undefined) throw new TypeError(`a preview does not know the reply of ${String(args[0])}`);
  return reply;
}

/** Nothing leaves an index in a preview: the sweep must move past what it has seen. */
export function previewedTask(task: ReconcilerTask): ReconcilerTask {
  return {
    ...task,
    begin: (run) => {
      const work = task.begin(run);
      return {
        process: async (entries) =>
          (await work.process(entries)).map((outcome) => (outcome.ok ? KEPT : outcome)),
        ...(work.finish === undefined ? {} : { finish: () => work.finish?.() ?? Promise.resolve(false) }),
      };
    },
  };
}

/** Follows a flow until it ends. */

import { setTimeout as sleep } from "node:timers/promises";
import type { z } from "zod";
import type { Runner } from "#cli/kit/runner.ts";
import type { Terminal } from "#cli/kit/terminal.ts";
import { DEFAULT_UNCHANGED_MS } from "#operate/flows/flow-entry.ts";
import { STATE_STYLES } from "#operate/graph/states.ts";
import { status } from "#operate/read/status.ts";
import { PUBLIC_STATES } from "#shared/contract/record.ts";

type Status = z.infer<typeof status.output>;

/** Between two reads, on a terminal and elsewhere. Milliseconds. */
const LIVE_MS = 500;
const LINES_MS = 2_000;
/** Reading a flow takes at most a fifth of the time: large flows are read less often. */
const PAUSE_PER_READ = 4;
const BAR_WIDTH = 24;

/**
 * Shows the states of a flow's executions until all have ended: a line that changes on a terminal, elsewhere a line for each
 * change. Rejects with the signal's reason when the signal aborts.
 */
export async function watchFlow(
  runner: Runner,
  flow: string,
  { terminal, signal }: { readonly terminal: Terminal; readonly signal: AbortSignal },
): Promise<Status> {
  let shown = "";
  let isStuck = false;
  for (;;) {
    signal.throwIfAborted();
    const readAt = performance.now();
    const found = await runner.run(status, { flow, unchanged_ms: DEFAULT_UNCHANGED_MS });
    const readMs = performance.now() - readAt;
    const line = describeStates(found);
    if (terminal.showsProgress) terminal.progress(`${barOf(found)} ${line}`);
    else if (line !== shown) terminal.note(line);
    shown = line;
    if (found.state !== "running") return found;
    const wasStuck = isStuck;
    isStuck = found.stuck !== undefined || found.stuck_member_count > 0;
    if (isStuck && !wasStuck) terminal.note(`sluice: something is stuck: sluice status ${flow}`);
    const pauseMs = Math.max(terminal.showsProgress ? LIVE_MS : LINES_MS, PAUSE_PER_READ * readMs);
    await sleep(pauseMs, undefined, { signal });
  }
}

/** `7 of 12 ended: 5 completed, 1 failed, 1 skipped; 1 active, 4 waiting for dependencies`. */
export function describeStates({ members }: Pick<Status, "members">): string {
  const { completed, failed, cancelled, expired, skipped, total } = members;
  const ended = completed + failed + cancelled + expired + skipped;
  const parts = [...PUBLIC_STATES].flatMap((state) =>
    members[state] === 0 ? [] : [`${members[state].toLocaleString("en-US")} ${STATE_STYLES[state].label}`],
  );
  if (members.unknown > 0) parts.push(`${members.unknown} ${STATE_STYLES.missing.label}`);
  return `${ended.toLocaleString("en-US")} of ${total.toLocaleString("en-US")} ended: ${parts.join(", ")}`;
}

function barOf({ members }: Status): string {
  const { completed, failed, cancelled, expired, skipped, total } = members;
  const share = total === 0 ? 0 : (completed + failed + cancelled + expired + skipped) / total;
  const filled = Math.floor(share * BAR_WIDTH);
  return `[${"#".repeat(filled)}${".".repeat(BAR_WIDTH - filled)}]`;
}

/** Runs operations that change executions, and describes what they did. */

import { plural } from "#operate/words.ts";
import { runOperation } from "#page/api.ts";
import { attempt, notify } from "#page/notices.tsx";
import type { ChangeReport } from "#page/types.ts";

const NO_REASON = "from the page";

type Change = ChangeReport["changes"][number];

/** Runs all pages of an operation as one. Throws an ApiError. */
async function runAll(
  operation: string,
  input: object,
  isDryRun: boolean,
  reason: string,
): Promise<Change[]> {
  const changes: Change[] = [];
  let cursor: string | undefined;
  do {
    const page: ChangeReport = await runOperation(operation, {
      ...input,
      dry_run: isDryRun,
      reason: reason === "" ? NO_REASON : reason,
      ...(cursor === undefined ? {} : { cursor }),
    });
    changes.push(...page.changes);
    cursor = page.next;
  } while (cursor !== undefined);
  return changes;
}

/** What an operation would change. Undefined after an error, which is shown. */
export function preview(operation: string, input: object): Promise<Change[] | undefined> {
  return attempt(() => runAll(operation, input, true, ""));
}

/**
 * Changes something, and shows what was done. `done` is the word for it: "Finished", "Replayed". An empty word: only problems are
 * shown.
 */
export async function change(operation: string, input: object, done: string, reason = ""): Promise<void> {
  const changes = await attempt(() => runAll(operation, input, false, reason));
  if (changes === undefined) return;
  const changed = changes.filter(({ status }) => status === "changed").length;
  const [problem] = changes.filter(({ status }) => status === "failed");
  const unchanged = changes.find(({ status }) => status === "unchanged");
  if (problem !== undefined) {
    const count = changes.filter(({ status }) => status === "failed").length;
    const others = count === 1 ? "" : ` (and ${count - 1} more)`;
    notify("error", `${problem.text}${others}`);
  }
  if (done === "") return;
  if (changed > 0) notify("done", `${done} ${plural(changed, "execution")}`);
  else if (problem === undefined)
    notify(
      "done",
      unchanged === undefined ? "There was nothing to do" : `Nothing changed: ${unchanged.text}`,
    );
}

import { parseJsonObject } from "#shared/contract/message.ts";
import { parseContinuation, readTotals } from "#shared/redrive/continuation.ts";
import { END_REASONS, type RedriveReport } from "#shared/redrive/report.ts";

/** Parses the response of the redrive function. Undefined if it is not a report, or has no valid continuation. */
export function parseReport(text: string): RedriveReport | undefined {
  const fields = parseJsonObject(text);
  if (fields === undefined) return undefined;
  const totals = readTotals(fields);
  const ended = END_REASONS.find((known) => known === fields.ended);
  const errors: string[] = [];
  const continuation = parseContinuation(fields.continuation, errors);
  const { done, dry_run: dryRun, method } = fields;
  if (totals === undefined || ended === undefined || errors.length > 0) return undefined;
  if (typeof done !== "boolean" || typeof dryRun !== "boolean" || done === (continuation !== undefined)) {
    return undefined;
  }
  return {
    ...totals,
    dry_run: dryRun,
    method: method === "move_task" ? method : "receive",
    done,
    ended,
    over_limit_ids: textsOf(fields.over_limit_ids),
    notes: textsOf(fields.notes),
    ...(continuation === undefined ? {} : { continuation }),
  };
}

function textsOf(value: unknown): string[] {
  const items: readonly unknown[] = Array.isArray(value) ? value : [];
  return items.filter((item) => typeof item === "string");
}

import { NO_TOTALS, type Totals } from "#shared/redrive/report.ts";

/** The maximum number of ids and of notes in a report. */
const MAX_LISTED = 20;

/** Collects the counts, ids and notes of a pass for its report. */
export class ReportBuilder {
  readonly totals: { -readonly [Name in keyof Totals]: number };
  readonly overLimitIds: string[] = [];
  readonly notes: string[] = [];

  constructor(totals: Totals = NO_TOTALS) {
    this.totals = { ...totals };
  }

  /** Counts one message that stays in the queue. */
  countKept(id: string, as: "kept" | "over_limit" | "matching"): void {
    this.totals.seen += 1;
    this.totals[as] += 1;
    if (as === "over_limit" && this.overLimitIds.length < MAX_LISTED) this.overLimitIds.push(id);
  }

  /** Counts a batch of messages: `replayed` of `tried` were sent and accepted. */
  countSent(tried: number, replayed: number): void {
    this.totals.seen += tried;
    this.totals.matching += tried;
    this.totals.replayed += replayed;
    this.totals.failed += tried - replayed;
  }

  addNote(text: string): void {
    if (this.notes.length < MAX_LISTED) this.notes.push(text);
  }
}

import { NO_TOTALS, type Totals } from "#shared/redrive/report.ts";

/** Ids and sentences listed one by one; beyond, messages are only counted. */
const LISTED = 20;

/** What a pass has counted, and what it has to tell. */
export class Tally {
  readonly totals: { -readonly [Name in keyof Totals]: number };
  readonly overLimitIds: string[] = [];
  readonly notes: string[] = [];

  constructor(totals: Totals = NO_TOTALS) {
    this.totals = { ...totals };
  }

  /** One message that stays in the queue. */
  stays(id: string, as: "kept" | "over_limit" | "matching"): void {
    this.totals.seen += 1;
    this.totals[as] += 1;
    if (as === "over_limit" && this.overLimitIds.length < LISTED) this.overLimitIds.push(id);
  }

  /** Messages of which some were sent. */
  sent(tried: number, replayed: number): void {
    this.totals.seen += tried;
    this.totals.matching += tried;
    this.totals.replayed += replayed;
    this.totals.failed += tried - replayed;
  }

  note(text: string): void {
    if (this.notes.length < LISTED) this.notes.push(text);
  }
}

/** One task within one run: reads its indexes, processes them batch by batch, and finishes. */

import { ValkeyError } from "#shared/errors.ts";
import { type Checkpoint, newSweep, SweepProgress, type SweepScope } from "#shared/reconcile/checkpoint.ts";
import { failed, firstError, type Outcome } from "#shared/reconcile/outcome.ts";
import { nextCursor, PrefetchedPages, type ReadPage } from "#shared/reconcile/paging.ts";
import { type StopReason, type SweepRun, SweepStopped, TaskRun } from "#shared/reconcile/run.ts";
import type { ReconcilerTask, TaskWork } from "#shared/reconcile/task.ts";
import { chunked } from "#shared/valkey/batches.ts";
import { isUnavailable } from "#shared/valkey/client.ts";

/** Indexes of a task that are open at once. One round trip reads a page of each, and all these pages are in memory. */
export const OPEN_INDEXES = 1_024;

const NOTHING_PREFETCHED = new PrefetchedPages([]);

/** What a new sweep starts from. */
export interface SweepStart {
  readonly lanes: SweepScope["lanes"];
  /** Undefined: a new sweep. */
  readonly checkpoint: Checkpoint | undefined;
  readonly prefetched: PrefetchedPages;
}

export class TaskSweep {
  readonly task: ReconcilerTask;
  readonly run: TaskRun;
  /** Why the current sweep stopped before its end. */
  stopReason: StopReason | undefined;
  /** An error that the task did not handle, of any sweep of the run. */
  error: Error | undefined;
  hasEnded = false;
  readonly #run: SweepRun;
  readonly #scope: SweepScope;
  #work: TaskWork;
  #prefetched: PrefetchedPages;
  #batches: ReadPage[][] = [];
  #isFinishing = false;

  constructor(run: SweepRun, task: ReconcilerTask, { lanes, checkpoint, prefetched }: SweepStart) {
    this.task = task;
    this.#run = run;
    this.#scope = { families: task.families, lanes, partitions: run.ports.partitions };
    const progress = new SweepProgress(this.#scope, checkpoint ?? newSweep(run.serverNowMs));
    this.run = new TaskRun(run, task, progress);
    this.#work = task.begin(this.run);
    this.#prefetched = checkpoint === undefined ? prefetched : NOTHING_PREFETCHED;
    // A sweep that has not begun needs no checkpoint.
    if (checkpoint !== undefined) run.unfinished.set(task.name, progress);
  }

  /** Begins another sweep of the task in the same run. */
  restart(): void {
    this.run.progress = new SweepProgress(this.#scope, newSweep(this.#run.serverNowMs));
    this.#work = this.task.begin(this.run);
    this.#batches = [];
    this.#isFinishing = false;
    this.stopReason = undefined;
    this.hasEnded = false;
  }

  /**
   * Works until the sweep ends or `sliceMs` milliseconds have passed. Throws SweepStopped if the lease is lost. Rejects
   * with the error of the server or the client if Valkey is unavailable; any other error ends only this sweep.
   */
  async runSlice(sliceMs: number): Promise<void> {
    const { now } = this.run.ports;
    const endMs = now() + sliceMs;
    this.#run.unfinished.set(this.task.name, this.run.progress);
    this.run.beginSlice();
    try {
      do await this.#step();
      while (!this.hasEnded && now() < endMs);
      this.run.endSlice();
    } catch (error) {
      if (error instanceof SweepStopped && error.reason === "out_of_time") this.#outOfTime();
      else if (error instanceof SweepStopped || isUnavailable(error)) throw error;
      else this.#end(error);
    }
  }

  async #step(): Promise<void> {
    if (!this.#isFinishing && !(await this.#read())) this.#isFinishing = true;
    if (!this.#isFinishing) return;
    if ((await this.#work.finish?.()) !== true) this.#end();
  }

  #outOfTime(): void {
    this.stopReason = "out_of_time";
    if (this.#isFinishing || this.#work.finish === undefined) this.hasEnded = true;
    // What was read can still be sent: a quarter of the time is left for it.
    else this.#isFinishing = true;
  }

  #end(error?: unknown): void {
    this.hasEnded = true;
    if (error !== undefined) this.error ??= error instanceof Error ? error : new Error(String(error));
    // Without a stop the sweep is over, and the next one starts from the beginning. After an error as well: a run that
    // always fails at the checkpoint would never get past it.
    if (this.stopReason === undefined) this.#run.unfinished.delete(this.task.name);
  }

  /** Processes a batch, or reads the next pages if there is none. Returns false at the end of the sweep. */
  async #read(): Promise<boolean> {
    const { progress } = this.run;
    const batch = this.#batches.shift();
    if (batch !== undefined) {
      await this.run.beginStep();
      await this.#process(batch);
      return true;
    }
    const indexes = progress.next(OPEN_INDEXES);
    if (indexes.length === 0) return false;
    await this.run.beginStep();
    const pages = await this.#prefetched.read(this.run.ports, indexes, this.run.serverNowMs);
    this.#prefetched = NOTHING_PREFETCHED;
    const unread = pages.filter((page) => !page.ok);
    for (const { index, error } of unread) this.run.failIndex(index, error);
    // If no page could be read, Valkey itself may be unavailable. Saving the checkpoint then rejects.
    if (unread.length === pages.length) await this.run.saveCheckpoint();
    const readable = pages.filter((page) => page.ok);
    for (const page of readable) {
      this.run.scanned += page.entries.length;
      if (page.entries.length === 0) progress.advance(page.index, nextCursor(page, []));
    }
    const filled = readable.filter(({ entries }) => entries.length > 0);
    // A page that failed together with others is retried alone.
    const limit = progress.isRetrying ? 0 : this.task.batchSize;
    this.#batches = [...chunked(filled, ({ entries }) => entries.length, limit)];
    return true;
  }

  async #process(pages: readonly ReadPage[]): Promise<void> {
    const { progress } = this.run;
    let position = 0;
    const outcomes = await this.#outcomesOf(pages);
    for (const page of pages) {
      const own = page.entries.map((_, offset) => outcomes[position + offset] ?? NO_OUTCOME);
      position += page.entries.length;
      const error = firstError(own);
      if (error === undefined) progress.advance(page.index, nextCursor(page, own));
      else this.run.failIndex(page.index, error);
    }
  }

  /** An error that the task does not handle fails the pages of the batch, and no other page or task. */
  async #outcomesOf(pages: readonly ReadPage[]): Promise<readonly Outcome[]> {
    const entries = pages.flatMap((page) => page.entries);
    try {
      return await this.#work.process(entries);
    } catch (error) {
      if (error instanceof SweepStopped || isUnavailable(error)) throw error;
      const outcome = failed(error instanceof Error ? error : new Error(String(error)));
      return entries.map(() => outcome);
    }
  }
}

const NO_OUTCOME = failed(new ValkeyError("the task returned no outcome for an entry"));

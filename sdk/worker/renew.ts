import type { ClaimedExecution } from "#sdk/worker/claim.ts";
import { LEASE_LOST_CODES, type WorkerClient } from "#sdk/worker/leasing.ts";
import type { ValkeyResult } from "#shared/contract/command.ts";
import { decodeReply } from "#shared/contract/reply.ts";
import { pairResults } from "#shared/contract/results.ts";
import { renewLease } from "#shared/contract/upkeep.ts";
import { LeaseLostError } from "#shared/errors.ts";
import { noResult } from "#shared/valkey/batches.ts";

/** How long `lease:current` outlives the lease (contract, section 10). */
const GRACE_MS = 5_000;
/** A failed renewal is repeated after this part of the interval. */
const RETRY_PART = 10;

/**
 * Renews the leases of running executions every third of their time, until it is disposed. If a lease is lost or revoked,
 * the signal of its execution aborts. Only the server decides about that: while it does not answer, renewals are repeated.
 * A renewal is repeated safely, since it sets the expiry anew.
 *
 * The timer does not keep the process alive. It uses a monotonic clock, so that changes of the system time do not matter.
 */
export class LeaseRenewals implements Disposable {
  readonly #client: WorkerClient;
  readonly #ttlMs: number;
  readonly #held = new Map<ClaimedExecution, AbortController>();
  #timer: NodeJS.Timeout | undefined;
  /** When the timer fires: a time of `performance.now()`. */
  #dueAt = Number.POSITIVE_INFINITY;
  #isDisposed = false;

  constructor(client: WorkerClient, ttlMs: number) {
    this.#client = client;
    this.#ttlMs = ttlMs;
  }

  /**
   * Renews the lease of an execution until `release`. The signal aborts with a `LeaseLostError` as its reason once the
   * execution belongs to another worker, or to none.
   *
   * @param claimedAt A time of `performance.now()` before the claim was sent.
   */
  hold(claimed: ClaimedExecution, claimedAt: number): AbortSignal {
    const controller = new AbortController();
    this.#held.set(claimed, controller);
    this.#schedule(claimedAt + this.#intervalMs);
    return controller.signal;
  }

  /** Stops renewing a lease: its outcome is written, or its execution is lost. */
  release(claimed: ClaimedExecution): void {
    this.#held.delete(claimed);
  }

  [Symbol.dispose](): void {
    this.#isDisposed = true;
    clearTimeout(this.#timer);
  }

  get #intervalMs(): number {
    return this.#ttlMs / 3;
  }

  /** Lets the timer fire at `dueAt`, unless it fires before. */
  #schedule(dueAt: number): void {
    if (this.#isDisposed || dueAt >= this.#dueAt) return;
    clearTimeout(this.#timer);
    this.#dueAt = dueAt;
    this.#timer = setTimeout(() => void this.#renew(), Math.max(0, dueAt - performance.now())).unref();
  }

  async #renew(): Promise<void> {
    this.#dueAt = Number.POSITIVE_INFINITY;
    const held = [...this.#held].filter(([, { signal }]) => !signal.aborted);
    if (held.length === 0) return;
    const terms = { ttlMs: this.#ttlMs, graceMs: GRACE_MS };
    const results = await this.#client.valkey.pipelined(
      held.map(([{ target, lease }]) => renewLease(target, lease, terms)),
    );
    const outcomes = pairResults(held, results, noResult).map(({ item: [claimed, controller], result }) => {
      const outcome = interpret(result);
      if (outcome.kind === "lost") {
        const { id } = claimed.target.keys;
        controller.abort(new LeaseLostError(`the lease of ${id} is lost: ${outcome.code}`));
      }
      return outcome;
    });
    const hasFailed = outcomes.some(({ kind }) => kind === "failed");
    this.#schedule(performance.now() + (hasFailed ? this.#intervalMs / RETRY_PART : this.#intervalMs));
  }
}

/** `failed`: the server did not answer, or it answered something else. The lease may be renewed or not. */
function interpret(
  result: ValkeyResult,
): { readonly kind: "renewed" | "failed" } | { readonly kind: "lost"; readonly code: string } {
  const reply = result.ok ? decodeReply(result.value) : result;
  if (!reply.ok) return { kind: "failed" };
  if (reply.value.kind === "done") return { kind: "renewed" };
  const { code } = reply.value;
  return LEASE_LOST_CODES.has(code) ? { kind: "lost", code } : { kind: "failed" };
}

import { lookOf, STATE_ORDER } from "#page/looks.ts";

/** How many executions have each state, as a bar. Texts beside it say the same. */
export function ProgressBar({
  counts,
  total,
}: {
  readonly counts: Readonly<Record<string, number>>;
  readonly total: number;
}) {
  return (
    <span class="progress" aria-hidden="true">
      {STATE_ORDER.filter((state) => state !== "waiting_children" && (counts[state] ?? 0) > 0).map(
        (state) => (
          <span
            key={state}
            style={{
              width: `${(100 * (counts[state] ?? 0)) / Math.max(1, total)}%`,
              background: `var(${lookOf(state).color})`,
            }}
          />
        ),
      )}
    </span>
  );
}

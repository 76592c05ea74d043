import { useState } from "preact/hooks";
import { ago } from "#operate/words.ts";
import { Icon } from "#page/icons.tsx";
import { useTopic } from "#page/live.ts";
import { hrefOf } from "#page/route.ts";
import type { FlowEntry, FlowsOutput } from "#page/types.ts";
import { Flow } from "#page/views/flow.tsx";
import { ProgressBar } from "#page/views/progress-bar.tsx";

const PAGE = 50;
const MAX_SHOWN = 1_000;
const FILTERS = ["all", "running", "stuck", "failed", "completed", "cancelled"] as const;
type Filter = (typeof FILTERS)[number];

interface FlowsProps {
  readonly flow: string | undefined;
  readonly execution: string | undefined;
  readonly onSubmit: () => void;
}

/** The flows on the left, and the chosen one beside them. */
export function Flows({ flow, execution, onSubmit }: FlowsProps) {
  return (
    <main class={`flows ${flow === undefined ? "" : "has-flow"}`}>
      <FlowList chosen={flow} />
      {flow === undefined ? (
        <NothingChosen onSubmit={onSubmit} />
      ) : (
        <Flow key={flow} id={flow} execution={execution} />
      )}
    </main>
  );
}

function FlowList({ chosen }: { readonly chosen: string | undefined }) {
  const [name, setName] = useState("");
  const [filter, setFilter] = useState<Filter>("all");
  const [limit, setLimit] = useState(PAGE);
  const { output, error } = useTopic<FlowsOutput>("flows", {
    limit,
    ...(name === "" ? {} : { name }),
    ...(filter === "all" ? {} : filter === "stuck" ? { stuck: true } : { state: filter }),
  });
  return (
    <section class="flow-list" aria-label="Flows">
      <div class="filters">
        <input
          type="search"
          aria-label="Search flows by name"
          placeholder="Search"
          value={name}
          onInput={({ currentTarget }) => setName(currentTarget.value.trim())}
        />
        <select
          aria-label="State of flows"
          value={filter}
          onChange={({ currentTarget }) =>
            setFilter(FILTERS.find((one) => one === currentTarget.value) ?? "all")
          }
        >
          {FILTERS.map((one) => (
            <option key={one} value={one}>
              {one === "all" ? "All states" : capitalized(one)}
            </option>
          ))}
        </select>
      </div>
      {error !== undefined && <p class="error">{error}</p>}
      <ul>
        {output?.flows.map((entry) => (
          <li key={entry.flow_id}>
            <FlowItem entry={entry} isChosen={entry.flow_id === chosen} />
          </li>
        ))}
      </ul>
      {output?.flows.length === 0 && <p class="muted pad">No flow matches.</p>}
      {output?.next !== undefined && limit < MAX_SHOWN && (
        <button type="button" class="more" onClick={() => setLimit(Math.min(MAX_SHOWN, limit * 2))}>
          Show more
        </button>
      )}
      {output?.counts !== undefined && <Counts counts={output.counts} />}
    </section>
  );
}

function Counts({ counts }: { readonly counts: NonNullable<FlowsOutput["counts"]> }) {
  const shown = Object.entries(counts).filter(([, count]) => count > 0);
  return (
    <p class="muted counts">
      {shown.length === 0
        ? "No flows yet"
        : shown.map(([state, count]) => `${count.toLocaleString("en-US")} ${state}`).join(" · ")}
    </p>
  );
}

const FLOW_ICONS: Readonly<Record<FlowEntry["state"], string>> = {
  running: "active",
  completed: "completed",
  failed: "failed",
  cancelled: "cancelled",
};

function FlowItem({ entry, isChosen }: { readonly entry: FlowEntry; readonly isChosen: boolean }) {
  const { flow_id: id, name, state, created_at: createdAt, members, stuck } = entry;
  const ended = members.completed + members.failed + members.cancelled + members.expired + members.skipped;
  return (
    <a
      class="flow-item"
      href={hrefOf({ view: "flows", flow: id })}
      aria-current={isChosen ? "true" : undefined}
    >
      <span class="flow-name">
        <Icon state={FLOW_ICONS[state]} />
        <strong>{name ?? id}</strong>
        {stuck !== undefined && <span class="badge alarm">stuck</span>}
      </span>
      <ProgressBar counts={members} total={members.total} />
      <span class="muted small">
        {capitalized(state)}, {ended.toLocaleString("en-US")} of {members.total.toLocaleString("en-US")} ·{" "}
        {ago(createdAt, Date.now())}
      </span>
    </a>
  );
}

function NothingChosen({ onSubmit }: { readonly onSubmit: () => void }) {
  return (
    <section class="empty">
      <img src="/favicon.svg" alt="" width="56" height="56" />
      <h1>Watch a workflow run</h1>
      <p>
        Choose a flow on the left, or submit a workflow: one of the samples, or a file of your own. Then
        finish its tasks level by level, or let one fail and watch what depends on it being skipped.
      </p>
      <button type="button" class="primary" onClick={onSubmit}>
        Submit workflow
      </button>
    </section>
  );
}

function capitalized(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

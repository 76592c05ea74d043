import type { ComponentChildren } from "preact";
import { useEffect, useMemo, useState } from "preact/hooks";
import { type State, stateOf } from "#operate/graph/states.ts";
import { plural } from "#operate/words.ts";
import { hasToken } from "#page/api.ts";
import { change, preview } from "#page/changes.ts";
import { Confirm } from "#page/dialog.tsx";
import { GraphCanvas } from "#page/graph/canvas.tsx";
import type { GraphModel } from "#page/graph/model.ts";
import { useGraph } from "#page/graph/use-graph.ts";
import { Icon } from "#page/icons.tsx";
import { lookOf, MEANINGS, STATE_ORDER } from "#page/looks.ts";
import { goTo, hrefOf } from "#page/route.ts";
import { Details } from "#page/views/details.tsx";
import { ProgressBar } from "#page/views/progress-bar.tsx";
import { TaskList } from "#page/views/task-list.tsx";

/** States in which an execution still goes on. */
const OPEN_STATES: ReadonlySet<State> = new Set([
  "active",
  "waiting",
  "delayed",
  "rate_limited",
  "suspended",
  "waiting_children",
]);
/** Time to see each level of a flow that runs by itself. */
const STEP_MS = 900;

interface FlowProps {
  readonly id: string;
  readonly execution: string | undefined;
}

/** One flow: its progress, what can be done with it, its graph, and the chosen execution. */
export function Flow({ id, execution }: FlowProps) {
  const { model, states, error } = useGraph(id);
  const [isList, setList] = useState(false);
  const [shown, setShown] = useState<State>();
  if (model === undefined) {
    return (
      <section class="flow">
        <FlowHead name={id} />
        <p class={error === undefined ? "muted pad" : "error pad"}>{error ?? "Reading the flow…"}</p>
      </section>
    );
  }
  // The tasks in one state are shown as a list.
  const isTable = isList || shown !== undefined;
  const selected = execution === undefined ? undefined : model.byExecution.get(execution);
  const select = (node: number | undefined): void =>
    goTo({
      view: "flows",
      flow: id,
      execution: node === undefined ? undefined : model.nodes[node]?.execution,
    });
  return (
    <>
      <section class="flow" aria-label="Flow">
        <FlowHead name={model.name || id} id={id}>
          <fieldset class="segments" aria-label="View of the flow">
            <button
              type="button"
              aria-pressed={!isTable}
              onClick={() => {
                setList(false);
                setShown(undefined);
              }}
            >
              Graph
            </button>
            <button type="button" aria-pressed={isTable} onClick={() => setList(true)}>
              List
            </button>
          </fieldset>
        </FlowHead>
        <Progress
          states={states}
          shown={shown}
          onShow={(state) => setShown(state === shown ? undefined : state)}
        />
        {error !== undefined && <p class="error">{error}</p>}
        {model.isPartial && <p class="banner">Only the first {model.nodes.length} executions are shown.</p>}
        <div class="toolbar">
          <search class="find">
            <FindTask model={model} onFound={select} />
          </search>
          <span class="spacer" />
          <FlowActions id={id} states={states} />
        </div>
        {isTable ? (
          <TaskList model={model} states={states} shown={shown} selected={selected} onSelect={select} />
        ) : (
          <GraphCanvas model={model} states={states} selected={selected} onSelect={select} />
        )}
      </section>
      {execution !== undefined && (
        <Details
          key={execution}
          execution={execution}
          model={model}
          states={states}
          onClose={() => select(undefined)}
        />
      )}
    </>
  );
}

interface FlowHeadProps {
  readonly name: string;
  readonly id?: string;
  readonly children?: ComponentChildren;
}

function FlowHead({ name, id, children }: FlowHeadProps) {
  return (
    <header class="flow-head">
      <a class="back" href={hrefOf({ view: "flows" })} aria-label="Back to all flows">
        ←
      </a>
      <h1>{name}</h1>
      {id !== undefined && <code class="muted small id">{id}</code>}
      <span class="spacer" />
      {children}
    </header>
  );
}

interface ProgressProps {
  readonly states: readonly string[];
  readonly shown: State | undefined;
  readonly onShow: (state: State) => void;
}

/** The counts of all states, each of which shows its tasks. */
function Progress({ states, shown, onShow }: ProgressProps) {
  const counts = useMemo(() => {
    const found: Partial<Record<State, number>> = {};
    for (const text of states) {
      const state = stateOf(text);
      found[state] = (found[state] ?? 0) + 1;
    }
    return found;
  }, [states]);
  return (
    <div class="flow-progress">
      <ProgressBar counts={counts} total={states.length} />
      <fieldset class="legend" aria-label="Executions by state">
        {STATE_ORDER.filter((state) => (counts[state] ?? 0) > 0).map((state) => (
          <button
            key={state}
            type="button"
            class="chip"
            title={MEANINGS[state]}
            aria-pressed={shown === state}
            onClick={() => onShow(state)}
          >
            <Icon state={state} />
            <strong>{(counts[state] ?? 0).toLocaleString("en-US")}</strong> {lookOf(state).label}
          </button>
        ))}
      </fieldset>
    </div>
  );
}

/** Finds a task by a part of its name; Enter opens it. */
function FindTask({
  model,
  onFound,
}: {
  readonly model: GraphModel;
  readonly onFound: (node: number) => void;
}) {
  const [text, setText] = useState("");
  const find = (): void => {
    const wanted = text.trim().toLowerCase();
    if (wanted === "") return;
    const names = model.nodes.map(({ name }) => name.toLowerCase());
    const exact = names.indexOf(wanted);
    const found = exact >= 0 ? exact : names.findIndex((name) => name.includes(wanted));
    if (found >= 0) onFound(found);
  };
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        find();
      }}
    >
      <input
        type="search"
        list="tasks"
        aria-label="Find a task"
        placeholder="Find a task"
        value={text}
        onInput={({ currentTarget }) => setText(currentTarget.value)}
      />
      <datalist id="tasks">
        {model.nodes.slice(0, 500).map(({ execution, name }) => (
          <option key={execution} value={name} />
        ))}
      </datalist>
    </form>
  );
}

function FlowActions({ id, states }: { readonly id: string; readonly states: readonly string[] }) {
  const ready = states.filter((state) => state === "waiting").length;
  const failed = states.filter((state) => state === "failed" || state === "expired").length;
  const isOpen = states.some((state) => OPEN_STATES.has(stateOf(state)));
  const [isBusy, setBusy] = useState(false);
  const [isRunning, setRunning] = useState(false);
  const [question, setQuestion] = useState<string>();
  const failedOnly = { flow: id, states: ["failed", "expired"], descendants: true };
  const finish = async (done: string): Promise<void> => {
    setBusy(true);
    await change("complete", { flow: id, states: ["waiting"] }, done);
    setBusy(false);
  };
  useEffect(() => {
    if (!isRunning || isBusy || ready === 0) return undefined;
    const timer = setTimeout(() => finish(""), STEP_MS);
    return () => clearTimeout(timer);
  }, [isRunning, isBusy, ready]);
  useEffect(() => {
    if (!isOpen) setRunning(false);
  }, [isOpen]);
  if (!hasToken()) return null;
  return (
    <>
      {failed > 0 && (
        <button
          type="button"
          onClick={async () => {
            const changes = await preview("replay", failedOnly);
            const count = changes?.filter(({ status }) => status === "would_change").length ?? 0;
            if (changes !== undefined) {
              setQuestion(
                `${plural(count, "execution")} run again: the ${failed === 1 ? "one" : failed} that failed, and what was skipped because of ${failed === 1 ? "it" : "them"}.`,
              );
            }
          }}
        >
          Replay failures
        </button>
      )}
      {isOpen && (
        <>
          <button type="button" aria-pressed={isRunning} onClick={() => setRunning(!isRunning)}>
            {isRunning ? "Pause" : "Auto-run"}
          </button>
          <button
            type="button"
            class="primary"
            disabled={ready === 0 || isBusy}
            onClick={() => finish("Finished")}
          >
            Finish {ready.toLocaleString("en-US")} ready
          </button>
        </>
      )}
      {question !== undefined && (
        <Confirm
          title="Replay the failures?"
          text={question}
          action="Replay"
          onConfirm={(reason) => change("replay", failedOnly, "Replayed", reason)}
          onClose={() => setQuestion(undefined)}
        />
      )}
    </>
  );
}

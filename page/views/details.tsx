import { useState } from "preact/hooks";
import { plural } from "#operate/words.ts";
import { hasToken } from "#page/api.ts";
import { change, preview } from "#page/changes.ts";
import { Confirm } from "#page/dialog.tsx";
import { type GraphModel, reachable } from "#page/graph/model.ts";
import { StateLabel } from "#page/icons.tsx";
import { useTopic } from "#page/live.ts";
import type { ExecutionOutput, Explanation } from "#page/types.ts";
import { Attempts, Edges, RecordTable, Value } from "#page/views/execution-parts.tsx";
import { Why } from "#page/views/why.tsx";

interface DetailsProps {
  readonly execution: string;
  readonly model: GraphModel;
  readonly states: readonly string[];
  readonly onClose: () => void;
}

/** One execution: why it is where it is, what can be done, and everything that is stored of it. */
export function Details({ execution, model, states, onClose }: DetailsProps) {
  const { output, error } = useTopic<ExecutionOutput>("execution", { execution });
  const explanation = useTopic<Explanation>("explain", { execution });
  const node = model.byExecution.get(execution);
  const name = (node === undefined ? undefined : model.nodes[node]?.name) ?? output?.task ?? execution;
  const short = (node === undefined ? undefined : model.nodes[node]?.short) ?? name;
  const state = (node === undefined ? undefined : states[node]) ?? output?.record.public_state ?? "";
  return (
    <aside class="details" aria-label={`Execution ${name}`}>
      <header>
        <div>
          <h2>{short}</h2>
          {short !== name && <p class="muted small">{name}</p>}
          <StateLabel state={state} />
        </div>
        <button type="button" class="quiet" aria-label="Close the details" onClick={onClose}>
          ×
        </button>
      </header>
      {hasToken() && (
        <Actions
          execution={execution}
          name={short}
          state={state}
          descendants={node === undefined ? 0 : reachable(model.downstream, node).size}
        />
      )}
      {error !== undefined && <p class="error">{error}</p>}
      <Why {...explanation} model={model} />
      {output !== undefined && (
        <>
          <Edges title="Depends on" edges={output.upstream} model={model} />
          <Edges title="Depend on it" edges={output.downstream} model={model} />
          <Attempts attempts={output.attempts} />
          <Value title="Payload" value={output.payload} />
          <Value title="Result" value={output.result} />
          <RecordTable record={output.record} />
        </>
      )}
    </aside>
  );
}

interface ActionsProps {
  readonly execution: string;
  readonly name: string;
  readonly state: string;
  readonly descendants: number;
}

interface Question {
  readonly operation: "fail" | "replay";
  readonly input: object;
  readonly title: string;
  readonly text: string;
}

const ENDED = ["failed", "cancelled", "expired", "skipped", "completed"];

function Actions({ execution, name, state, descendants }: ActionsProps) {
  const [question, setQuestion] = useState<Question>();
  const askToFail = (): void =>
    setQuestion({
      operation: "fail",
      input: { execution },
      title: `Fail ${name}?`,
      text:
        descendants === 0
          ? "Nothing depends on it."
          : `${plural(descendants, "execution")} ${descendants === 1 ? "depends" : "depend"} on it and will be skipped, unless another path lets them run.`,
    });
  const askToReplay = async (withDescendants: boolean): Promise<void> => {
    const input = { execution, descendants: withDescendants };
    const changes = await preview("replay", input);
    if (changes === undefined) return;
    const count = changes.filter(({ status }) => status === "would_change").length;
    const [obstacle] = changes.filter(({ status }) => status !== "would_change");
    setQuestion({
      operation: "replay",
      input,
      title: `Replay ${name}?`,
      text:
        count === 0 && obstacle !== undefined
          ? `It cannot be replayed: ${obstacle.text}.`
          : `${plural(count, "execution")} will run again${withDescendants ? `: this one, and ${plural(count - 1, "descendant")}` : ""}.`,
    });
  };
  return (
    <div class="actions">
      {state === "waiting" && (
        <button type="button" class="primary" onClick={() => change("complete", { execution }, "Finished")}>
          Finish
        </button>
      )}
      {state === "waiting" && (
        <button type="button" class="danger" onClick={askToFail}>
          Fail…
        </button>
      )}
      {ENDED.includes(state) && state !== "skipped" && (
        <button
          type="button"
          class={state === "completed" ? "" : "primary"}
          onClick={() => askToReplay(true)}
        >
          Replay with descendants…
        </button>
      )}
      {ENDED.includes(state) && (
        <button type="button" onClick={() => askToReplay(false)}>
          Replay alone…
        </button>
      )}
      {question !== undefined && (
        <Confirm
          title={question.title}
          text={question.text}
          action={question.operation === "fail" ? "Fail" : "Replay"}
          isDangerous={question.operation === "fail"}
          onConfirm={(reason) =>
            change(
              question.operation,
              question.input,
              question.operation === "fail" ? "Failed" : "Replayed",
              reason,
            )
          }
          onClose={() => setQuestion(undefined)}
        />
      )}
    </div>
  );
}

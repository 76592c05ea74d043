import { useState } from "preact/hooks";
import { plural } from "#operate/words.ts";
import { runOperation } from "#page/api.ts";
import { Dialog } from "#page/dialog.tsx";
import { notify } from "#page/notices.tsx";
import { goTo } from "#page/route.ts";
import { SAMPLES } from "#page/samples.ts";
import type { SubmitOutput } from "#page/types.ts";

/** Submits a sample, a file, or pasted text. */
export function SubmitDialog({ onClose }: { readonly onClose: () => void }) {
  const [text, setText] = useState("");
  const [source, setSource] = useState("the workflow");
  const [error, setError] = useState<string>();
  const [isBusy, setBusy] = useState(false);
  const submit = async (workflow: string, name: string): Promise<void> => {
    setBusy(true);
    setError(undefined);
    try {
      const {
        flow_id: flow,
        tasks,
        warnings,
      } = await runOperation<SubmitOutput>("submit", {
        workflow,
        source: name,
        reason: "from the page",
      });
      notify("done", [`${plural(tasks, "task")} submitted`, ...warnings].join(". "));
      goTo({ view: "flows", flow });
      onClose();
    } catch (problem) {
      setError(problem instanceof Error ? problem.message : String(problem));
      setBusy(false);
    }
  };
  const read = async (file: File | undefined): Promise<void> => {
    if (file === undefined) return;
    setText(await file.text());
    setSource(file.name);
  };
  return (
    <Dialog title="Submit a workflow" onClose={onClose} isWide>
      <fieldset class="samples" aria-label="Samples">
        {SAMPLES.map(({ title, text: about, workflow }) => (
          <button
            key={title}
            type="button"
            class="card"
            disabled={isBusy}
            onClick={() => submit(workflow, title)}
          >
            <strong>{title}</strong>
            <span class="muted small">{about}</span>
          </button>
        ))}
      </fieldset>
      <form
        onSubmit={async (event) => {
          event.preventDefault();
          await submit(text, source);
        }}
      >
        <label class="field">
          Or a workflow of your own: Sluice's JSON or WfFormat
          <textarea
            name="workflow"
            rows={8}
            spellcheck={false}
            placeholder='{"name": "my-workflow", "tasks": [{"id": "a"}, {"id": "b", "dependsOn": ["a"]}]}'
            value={text}
            onInput={({ currentTarget }) => setText(currentTarget.value)}
          />
        </label>
        <label class="field">
          File
          <input
            type="file"
            accept=".json,application/json"
            onChange={({ currentTarget }) => read(currentTarget.files?.[0])}
          />
        </label>
        {error !== undefined && (
          <p class="error" role="alert">
            {error}
          </p>
        )}
        <footer>
          <button type="button" onClick={onClose}>
            Cancel
          </button>
          <button type="submit" class="primary" disabled={isBusy || text.trim() === ""}>
            {isBusy ? "Submitting…" : "Submit"}
          </button>
        </footer>
      </form>
    </Dialog>
  );
}

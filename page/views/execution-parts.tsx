import { type GraphModel, shortNameOf } from "#page/graph/model.ts";
import { StateLabel } from "#page/icons.tsx";
import { hrefOf } from "#page/route.ts";
import type { ExecutionOutput } from "#page/types.ts";

interface EdgesProps {
  readonly title: string;
  readonly edges: ExecutionOutput["upstream"];
  readonly model: GraphModel;
}

export function Edges({ title, edges: { count, items }, model }: EdgesProps) {
  if (count === 0) return null;
  return (
    <section>
      <h3>
        {title} <span class="muted">{count.toLocaleString("en-US")}</span>
      </h3>
      <ul class="edges">
        {items.map(({ execution, task, state, edge_state: edgeState }) => (
          <li key={execution}>
            <a href={hrefOf({ view: "flows", flow: model.flow, execution })}>
              {shortNameOf(model, execution, task)}
            </a>
            <StateLabel state={state} />
            <span class="muted small">{edgeState === "" ? "edge not applied" : `edge ${edgeState}`}</span>
          </li>
        ))}
      </ul>
      {count > items.length && (
        <p class="muted small">{(count - items.length).toLocaleString("en-US")} more are not shown.</p>
      )}
    </section>
  );
}

export function Attempts({ attempts: { count, items } }: { readonly attempts: ExecutionOutput["attempts"] }) {
  if (count === 0) return null;
  return (
    <section>
      <h3>
        Attempts <span class="muted">{count.toLocaleString("en-US")}</span>
      </h3>
      <ol class="attempts" reversed>
        {items.map((attempt) => (
          <li key={attempt.attempt_index}>
            <strong>
              {attempt.attempt_type ?? "attempt"}, {(attempt.attempt_state ?? "").replaceAll("_", " ")}
            </strong>
            <span class="muted small">
              {timeOf(attempt.started_at)}
              {attempt.worker_instance_id !== undefined && ` by ${attempt.worker_instance_id}`}
            </span>
            {attempt.failure_reason !== undefined && <span class="small">{attempt.failure_reason}</span>}
          </li>
        ))}
      </ol>
    </section>
  );
}

export function Value({
  title,
  value: { text, bytes },
}: {
  readonly title: string;
  readonly value: ExecutionOutput["payload"];
}) {
  if (bytes === 0) return null;
  const shown = new TextEncoder().encode(text).length;
  return (
    <section>
      <h3>
        {title} <span class="muted">{bytes.toLocaleString("en-US")} bytes</span>
      </h3>
      <pre class="value">{formatted(text)}</pre>
      {shown < bytes && <p class="muted small">Only the beginning is shown.</p>}
    </section>
  );
}

/** JSON with line breaks. Anything else, and JSON that was cut, stays as it is. */
function formatted(text: string): string {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch (_notJson) {
    return text;
  }
}

export function RecordTable({ record }: { readonly record: ExecutionOutput["record"] }) {
  return (
    <section>
      <details>
        <summary>Record</summary>
        <table class="record">
          <tbody>
            {Object.entries(record)
              .sort(([one], [other]) => (one < other ? -1 : 1))
              .map(([name, value]) => (
                <tr key={name}>
                  <th scope="row">{name}</th>
                  <td title={name.endsWith("_at") ? timeOf(value) : undefined}>{value}</td>
                </tr>
              ))}
          </tbody>
        </table>
      </details>
    </section>
  );
}

function timeOf(text: string | undefined): string {
  const time = Number(text);
  return Number.isFinite(time) && time > 0 ? new Date(time).toLocaleTimeString("en-GB") : "";
}

import { type GraphModel, shortNameOf } from "#page/graph/model.ts";
import type { Watched } from "#page/live.ts";
import { hrefOf } from "#page/route.ts";
import type { Explanation } from "#page/types.ts";

/** Longer chains are closed at first. */
const SHOWN_LINKS = 6;

interface WhyProps extends Watched<Explanation> {
  readonly model: GraphModel;
}

/** What `sluice explain` says. */
export function Why({ output, error, model }: WhyProps) {
  if (output === undefined) {
    return (
      <section class="why">
        <h3>Why</h3>
        <p class={error === undefined ? "muted" : "error"}>{error ?? "Looking for the reason…"}</p>
      </section>
    );
  }
  const { summary, causes, skip, next } = output;
  const others = causes.filter(({ text }) => text !== summary);
  return (
    <section class="why">
      <h3>Why</h3>
      <p class="summary">{summary}</p>
      {others.length > 0 && (
        <ul class="causes">
          {others.map(({ code, severity, text }) => (
            <li key={`${code} ${text}`} class={severity}>
              {text}
            </li>
          ))}
        </ul>
      )}
      {skip !== undefined && skip.chain.length > 0 && <SkipChain skip={skip} model={model} />}
      {next.length > 0 && (
        <details>
          <summary>Commands</summary>
          {next.map((line) => (
            <pre key={line}>{line}</pre>
          ))}
        </details>
      )}
    </section>
  );
}

/** The way up to the execution that caused a skip. */
function SkipChain({
  skip,
  model,
}: {
  readonly skip: NonNullable<Explanation["skip"]>;
  readonly model: GraphModel;
}) {
  const linkTo = (id: string, task: string) => (
    <a href={hrefOf({ view: "flows", flow: model.flow, execution: id })}>{shortNameOf(model, id, task)}</a>
  );
  return (
    <>
      {skip.root_execution_id !== "" && (
        <p>
          Cause: {linkTo(skip.root_execution_id, skip.root_task)}, {skip.root_reason}
        </p>
      )}
      <details open={skip.chain.length <= SHOWN_LINKS}>
        <summary>From here to the cause</summary>
        <ol class="chain">
          {skip.chain.map(({ execution_id: id, task, outcome, reason }) => (
            <li key={id}>
              {linkTo(id, task)}{" "}
              <span class="muted">
                {outcome || "replayed since"}
                {reason !== "" && `: ${reason}`}
              </span>
            </li>
          ))}
        </ol>
      </details>
    </>
  );
}

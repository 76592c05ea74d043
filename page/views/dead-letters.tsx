import { useEffect, useState } from "preact/hooks";
import { duration, plural } from "#operate/words.ts";
import { hasToken, runOperation } from "#page/api.ts";
import { Confirm } from "#page/dialog.tsx";
import { StateLabel } from "#page/icons.tsx";
import { attempt, notify } from "#page/notices.tsx";
import { hrefOf } from "#page/route.ts";
import type { DeadLetter, DeadLettersOutput, LetterChangeReport } from "#page/types.ts";

/**
 * Messages that could not be processed. They are read when the page opens and when their number changes, and not all the time:
 * looking at a message of SQS hides it from others for a moment.
 */
export function DeadLetters({ count }: { readonly count: number }) {
  const [output, setOutput] = useState<DeadLettersOutput>();
  const [isAsking, setAsking] = useState(false);
  const [isBusy, setBusy] = useState(false);
  const read = async (): Promise<void> => {
    const list = await attempt(() => runOperation<DeadLettersOutput>("dlq.list", { limit: 100 }));
    if (list !== undefined) setOutput(list);
  };
  useEffect(() => {
    void read();
  }, [count]);
  const replay = async (selection: object, reason: string): Promise<void> => {
    setBusy(true);
    await attempt(() => replayAll(selection, reason));
    await read();
    setBusy(false);
  };
  const messages = output?.messages ?? [];
  return (
    <main class="page">
      <header class="page-head">
        <h1>Dead letters</h1>
        <span class="spacer" />
        <button type="button" onClick={read}>
          Refresh
        </button>
        {hasToken() && (
          <button
            type="button"
            class="primary"
            disabled={messages.length === 0 || isBusy}
            onClick={() => setAsking(true)}
          >
            Replay all
          </button>
        )}
      </header>
      <p class="muted">
        Completions that could not be processed. Replaying one sends it to the completions queue again; that
        changes nothing if it was processed meanwhile.
      </p>
      {output !== undefined && messages.length === 0 && <p class="muted">There are no dead letters.</p>}
      {messages.length > 0 && (
        <div class="table-holder">
          <table class="stacked">
            <thead>
              <tr>
                <th scope="col">Reason</th>
                <th scope="col">Execution</th>
                <th scope="col">Age</th>
                <th scope="col">Received</th>
                <th scope="col">
                  <span class="visually-hidden">Actions</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {messages.map((message) => (
                <LetterRow
                  key={message.message_id}
                  message={message}
                  isBusy={isBusy}
                  onReplay={() => replay({ message_ids: [message.message_id] }, "")}
                />
              ))}
            </tbody>
          </table>
        </div>
      )}
      {output !== undefined && !output.complete && (
        <p class="muted">Only a part of {plural(output.approximate_total, "message")} is shown.</p>
      )}
      {isAsking && (
        <Confirm
          title="Replay all dead letters?"
          text={`${plural(output?.approximate_total ?? 0, "message")} will be sent to the completions queue again.`}
          action="Replay"
          onConfirm={(reason) => replay({ all: true }, reason)}
          onClose={() => setAsking(false)}
        />
      )}
    </main>
  );
}

async function replayAll(selection: object, reason: string): Promise<void> {
  let cursor: string | undefined;
  let report: LetterChangeReport;
  do {
    report = await runOperation<LetterChangeReport>("dlq.replay", {
      ...selection,
      reason: reason || "from the page",
      ...(cursor === undefined ? {} : { cursor }),
    });
    cursor = report.next;
  } while (cursor !== undefined);
  for (const note of report.notes) notify("error", note);
  notify("done", `Replayed ${plural(report.changed, "message")}`);
}

interface LetterRowProps {
  readonly message: DeadLetter;
  readonly isBusy: boolean;
  readonly onReplay: () => void;
}

function LetterRow({ message, isBusy, onReplay }: LetterRowProps) {
  const {
    error_code: code,
    error_message: text,
    execution_id: execution,
    flow_id: flow,
    explanation,
  } = message;
  return (
    <tr>
      <td>
        <strong>{code ?? "delivered too often"}</strong>
        <div class="muted small">{text ?? "The queue gave it up after too many failed deliveries."}</div>
        <details>
          <summary class="small">Message</summary>
          <pre>{message.body}</pre>
        </details>
      </td>
      <td>
        {execution === undefined || flow === undefined ? (
          <span class="muted">It names no valid execution.</span>
        ) : (
          <a href={hrefOf({ view: "flows", flow, execution })}>{execution}</a>
        )}
        {explanation !== undefined && (
          <div class="small">
            {explanation.state !== undefined && <StateLabel state={explanation.state} />}
            <div>{explanation.summary}</div>
          </div>
        )}
      </td>
      <td class="number" data-label="Age">
        {message.age_ms === undefined ? "–" : duration(message.age_ms)}
      </td>
      <td class="number" data-label="Received">
        {message.receive_count ?? "–"}
        {message.replays > 0 && <div class="muted small">replayed {message.replays}×</div>}
      </td>
      <td>
        {hasToken() && (
          <button type="button" disabled={isBusy} onClick={onReplay}>
            Replay
          </button>
        )}
      </td>
    </tr>
  );
}

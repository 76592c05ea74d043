import { ago } from "#operate/words.ts";
import { useTopic } from "#page/live.ts";
import type { LaneReport, LanesOutput, QueuesOutput } from "#page/types.ts";

/** Which lanes have work, which of them a worker serves, and what waits in the queues. */
export function Lanes({ queues }: { readonly queues: QueuesOutput | undefined }) {
  const { output, error } = useTopic<LanesOutput>("lanes", {});
  return (
    <main class="page">
      <h1>Lanes</h1>
      <p class="muted">
        A worker takes executions of one lane. Without a worker, the executions of this machine wait until you
        finish them.
      </p>
      {error !== undefined && <p class="error">{error}</p>}
      {output?.lanes.length === 0 && <p class="muted">No lane has been used yet.</p>}
      {output !== undefined && output.lanes.length > 0 && (
        <div class="table-holder">
          <table>
            <thead>
              <tr>
                <th scope="col">Lane</th>
                <th scope="col">State</th>
                <th scope="col">Ready</th>
                <th scope="col">Running</th>
                <th scope="col">Delayed</th>
                <th scope="col">Blocked</th>
                <th scope="col">Expired leases</th>
                <th scope="col">Oldest ready</th>
                <th scope="col">Last claim</th>
              </tr>
            </thead>
            <tbody>
              {output.lanes.map((lane) => (
                <LaneRow key={lane.lane} lane={lane} now={output.read_at} />
              ))}
            </tbody>
          </table>
        </div>
      )}
      <h2>Queues</h2>
      <div class="table-holder">
        <table>
          <thead>
            <tr>
              <th scope="col">Queue</th>
              <th scope="col">Visible</th>
              <th scope="col">In flight</th>
              <th scope="col">Delayed</th>
            </tr>
          </thead>
          <tbody>
            {queues?.queues.map(({ queue, lane, visible, in_flight: inFlight, delayed, error: problem }) => (
              <tr key={`${queue} ${lane}`}>
                <th scope="row">{nameOf(queue, lane)}</th>
                {problem === undefined ? (
                  [visible, inFlight, delayed].map((count, column) => (
                    <td key={column} class="number">
                      {(count ?? 0).toLocaleString("en-US")}
                    </td>
                  ))
                ) : (
                  <td colSpan={3} class="error">
                    {problem}
                  </td>
                )}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </main>
  );
}

function nameOf(queue: string, lane: string | undefined): string {
  if (queue === "ready") return `Ready, lane ${lane}`;
  return queue === "dead_letters" ? "Dead letters" : "Completions";
}

const STATES: Readonly<Record<LaneReport["state"], { readonly text: string; readonly kind: string }>> = {
  paused: { text: "paused", kind: "warning" },
  idle: { text: "idle", kind: "info" },
  served: { text: "served", kind: "good" },
  not_served: { text: "no worker", kind: "problem" },
};

function LaneRow({ lane, now }: { readonly lane: LaneReport; readonly now: number }) {
  const { text, kind } = STATES[lane.state];
  return (
    <tr>
      <th scope="row">{lane.lane}</th>
      <td>
        <span class={`tag ${kind}`}>{text}</span>
      </td>
      {[lane.eligible, lane.active, lane.delayed, lane.blocked, lane.expired_leases].map((count, column) => (
        <td key={column} class="number">
          {count.toLocaleString("en-US")}
        </td>
      ))}
      <td>{lane.oldest_eligible === undefined ? "–" : ago(lane.oldest_eligible.eligible_at, now)}</td>
      <td>{lane.last_claim_at === undefined ? "never" : ago(lane.last_claim_at, now)}</td>
    </tr>
  );
}

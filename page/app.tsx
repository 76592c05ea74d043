import { useState } from "preact/hooks";
import { hasToken } from "#page/api.ts";
import { useIsOpen, useTopic } from "#page/live.ts";
import { Notices } from "#page/notices.tsx";
import { hrefOf, useRoute } from "#page/route.ts";
import { chooseTheme, isDark } from "#page/theme.ts";
import type { QueuesOutput } from "#page/types.ts";
import { DeadLetters } from "#page/views/dead-letters.tsx";
import { Flows } from "#page/views/flows.tsx";
import { Lanes } from "#page/views/lanes.tsx";
import { SubmitDialog } from "#page/views/submit.tsx";

export function App() {
  const route = useRoute();
  const isOpen = useIsOpen();
  const [isSubmitting, setSubmitting] = useState(false);
  const { output: queues } = useTopic<QueuesOutput>("queues", {});
  const deadLetters = queues?.queues.find(({ queue }) => queue === "dead_letters");
  const deadCount = (deadLetters?.visible ?? 0) + (deadLetters?.in_flight ?? 0) + (deadLetters?.delayed ?? 0);
  return (
    <div class="app">
      <header class="bar">
        <a class="brand" href={hrefOf({ view: "flows" })}>
          <img src="/favicon.svg" alt="" width="24" height="24" />
          Sluice
        </a>
        <nav aria-label="Views">
          <a href={hrefOf({ view: "flows" })} aria-current={route.view === "flows" ? "page" : undefined}>
            Flows
          </a>
          <a href={hrefOf({ view: "lanes" })} aria-current={route.view === "lanes" ? "page" : undefined}>
            Lanes
          </a>
          <a
            href={hrefOf({ view: "dead-letters" })}
            aria-current={route.view === "dead-letters" ? "page" : undefined}
          >
            Dead letters
            {deadCount > 0 && <span class="badge alarm">{deadCount.toLocaleString("en-US")}</span>}
          </a>
        </nav>
        <span class="spacer" />
        <span class={isOpen ? "live" : "live lost"} role="status">
          {isOpen ? "Live" : "Reconnecting"}
        </span>
        <ThemeToggle />
        <button type="button" class="primary" disabled={!hasToken()} onClick={() => setSubmitting(true)}>
          Submit workflow
        </button>
      </header>
      {!hasToken() && (
        <p class="banner">
          This tab only shows: it has no token for changes. Open the URL that <code>sluice dev</code> printed.
        </p>
      )}
      {route.view === "flows" && (
        <Flows flow={route.flow} execution={route.execution} onSubmit={() => setSubmitting(true)} />
      )}
      {route.view === "lanes" && <Lanes queues={queues} />}
      {route.view === "dead-letters" && <DeadLetters count={deadCount} />}
      {isSubmitting && <SubmitDialog onClose={() => setSubmitting(false)} />}
      <Notices />
    </div>
  );
}

function ThemeToggle() {
  const [dark, setDark] = useState(isDark);
  const label = dark ? "Use the light theme" : "Use the dark theme";
  return (
    <button
      type="button"
      class="quiet"
      aria-label={label}
      title={label}
      onClick={() => {
        chooseTheme(dark ? "light" : "dark");
        setDark(!dark);
      }}
    >
      <svg class="icon large" viewBox="0 0 16 16" aria-hidden="true">
        {dark ? (
          <path d="M8 5A3 3 0 1 0 8 11A3 3 0 1 0 8 5M8 1v1.6M8 13.4V15M1 8h1.6M13.4 8H15M3 3l1.2 1.2M11.8 11.8 13 13M13 3l-1.2 1.2M4.2 11.8 3 13" />
        ) : (
          <path d="M13.4 9.6A5.8 5.8 0 0 1 6.4 2.6A5.8 5.8 0 1 0 13.4 9.6Z" />
        )}
      </svg>
    </button>
  );
}

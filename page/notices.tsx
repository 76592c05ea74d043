/** Short messages about what was done or what went wrong. */

import { useEffect, useState } from "preact/hooks";

interface Notice {
  readonly id: number;
  readonly kind: "done" | "error";
  readonly text: string;
}

const SHOWN_MS = 6_000;
let nextId = 0;
let notices: readonly Notice[] = [];
const listeners = new Set<(notices: readonly Notice[]) => void>();

function set(next: readonly Notice[]): void {
  notices = next;
  for (const listener of listeners) listener(notices);
}

function dismiss(id: number): void {
  set(notices.filter((notice) => notice.id !== id));
}

/** An error stays until it is dismissed. */
export function notify(kind: Notice["kind"], text: string): void {
  nextId += 1;
  const notice = { id: nextId, kind, text };
  set([...notices, notice]);
  if (kind === "done") setTimeout(() => dismiss(notice.id), SHOWN_MS);
}

/** Runs an action of the user, and shows its error. Returns undefined after an error. */
export async function attempt<T>(action: () => Promise<T>): Promise<T | undefined> {
  try {
    return await action();
  } catch (error) {
    notify("error", error instanceof Error ? error.message : String(error));
    return undefined;
  }
}

export function Notices() {
  const [shown, setShown] = useState(notices);
  useEffect(() => {
    listeners.add(setShown);
    return () => {
      listeners.delete(setShown);
    };
  }, []);
  return (
    <div class="notices" role="status" aria-live="polite">
      {shown.map(({ id, kind, text }) => (
        <div key={id} class={`notice ${kind}`}>
          <p>{text}</p>
          <button type="button" class="quiet" aria-label="Dismiss" onClick={() => dismiss(id)}>
            ×
          </button>
        </div>
      ))}
    </div>
  );
}

/** What the server pushes: the answers of read operations, again whenever they change. */

import { useEffect, useState } from "preact/hooks";
import { post } from "#page/api.ts";

interface Request {
  readonly operation: string;
  readonly input: object;
}

/** A message of the server (local/page/topics.ts). */
export type Update = Request &
  (
    | { readonly output: unknown }
    | { readonly states: Readonly<Record<string, string>> }
    | { readonly error: string }
  );

type Listener = (update: Update) => void;

interface Topic {
  readonly request: Request;
  readonly listeners: Set<Listener>;
  /** For a further listener: the server sends nothing twice. An answer, and the states that have changed since. */
  last: Update | undefined;
  states: Record<string, string>;
}

/** One connection for the whole page: browsers open at most six to one server. */
class LiveConnection {
  readonly #topics = new Map<string, Topic>();
  readonly #statusListeners = new Set<(isOpen: boolean) => void>();
  #stream: string | undefined;
  #isScheduled = false;

  open(): void {
    const source = new EventSource("/api/events");
    source.addEventListener("hello", (event) => {
      this.#stream = JSON.parse(event.data).id;
      this.#notify(true);
      this.#schedule();
    });
    source.addEventListener("message", (event) => this.#receive(JSON.parse(event.data)));
    // The browser connects again by itself, unless the server refused.
    source.addEventListener("error", () => {
      this.#stream = undefined;
      this.#notify(false);
    });
  }

  onStatus(listener: (isOpen: boolean) => void): () => void {
    this.#statusListeners.add(listener);
    listener(this.#stream !== undefined);
    return () => this.#statusListeners.delete(listener);
  }

  /** Calls the listener with each update, the present answer first. Returns a function that ends it. */
  watch(request: Request, listener: Listener): () => void {
    const key = JSON.stringify(request);
    const topic = this.#topics.get(key) ?? { request, listeners: new Set(), last: undefined, states: {} };
    this.#topics.set(key, topic);
    topic.listeners.add(listener);
    if (topic.last !== undefined) listener(topic.last);
    if (Object.keys(topic.states).length > 0) listener({ ...request, states: topic.states });
    this.#schedule();
    return () => {
      topic.listeners.delete(listener);
      this.#schedule();
    };
  }

  /** Sends the topics once after all components have said what they show. */
  #schedule(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    queueMicrotask(() => {
      this.#isScheduled = false;
      for (const [key, { listeners }] of this.#topics) if (listeners.size === 0) this.#topics.delete(key);
      if (this.#stream === undefined) return;
      const topics = [...this.#topics.values()].map(({ request }) => request);
      // The stream has ended if it fails: then the next one sends the topics.
      post("/api/watch", { stream: this.#stream, topics }).catch(() => undefined);
    });
  }

  #receive(update: Update): void {
    const { operation, input } = update;
    const topic = this.#topics.get(JSON.stringify({ operation, input }));
    if (topic === undefined) return;
    if ("states" in update) {
      Object.assign(topic.states, update.states);
    } else {
      topic.last = update;
      topic.states = {};
    }
    for (const listener of topic.listeners) listener(update);
  }

  #notify(isOpen: boolean): void {
    for (const listener of this.#statusListeners) listener(isOpen);
  }
}

export const live = new LiveConnection();

/** The present answer of an operation. Both are undefined until the first one arrives. */
export interface Watched<Output> {
  readonly output?: Output;
  readonly error?: string;
}

/** Watches a read operation. Undefined input: nothing. An error keeps the last output. */
export function useTopic<Output>(operation: string, input: object | undefined): Watched<Output> {
  const [watched, setWatched] = useState<Watched<Output> & { readonly key: string }>({ key: "" });
  const key = input === undefined ? "" : JSON.stringify(input);
  useEffect(() => {
    if (key === "") return undefined;
    return live.watch({ operation, input: JSON.parse(key) }, (update) => {
      setWatched((last) => {
        if ("output" in update) return { key, output: update.output as Output };
        const error = "error" in update ? update.error : "";
        return last.key === key ? { ...last, error } : { key, error };
      });
    });
  }, [operation, key]);
  return watched.key === key ? watched : {};
}

/** Whether the server is connected. */
export function useIsOpen(): boolean {
  const [isOpen, setOpen] = useState(true);
  useEffect(() => live.onStatus(setOpen), []);
  return isOpen;
}

/** Server-sent events: each page holds one connection, over which the server pushes what changed. */

import { randomUUID } from "node:crypto";
import { once } from "node:events";
import type { ServerResponse } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import type { Activity } from "#local/activity.ts";
import { HttpError } from "#local/page/answers.ts";
import { SECURITY_HEADERS } from "#local/page/assets.ts";
import { type RunRead, type Topic, type TopicRequest, topicOf } from "#local/page/topics.ts";

/** Connections at once. A browser opens at most six to one server. */
const MAX_STREAMS = 16;
/** Changes that other processes make are found after this time. Those of this process are pushed at once. */
const TICK_MS = 500;
const MIN_PAUSE_MS = 100;
/** Reading one topic takes at most a quarter of the time: what is slow to read is read less often. */
const PAUSE_PER_READ = 3;
/** Keeps proxies and the browser from closing an idle connection. */
const HEARTBEAT_MS = 15_000;

export class EventStreams {
  readonly #streams = new Map<string, EventStream>();
  readonly #run: RunRead;
  readonly #activity: Activity;
  readonly #stopping = new AbortController();

  constructor(run: RunRead, activity: Activity) {
    this.#run = run;
    this.#activity = activity;
  }

  /** Answers a request with a stream of events. The first one, `hello`, has the id to watch topics with. */
  open(response: ServerResponse): void {
    if (this.#streams.size >= MAX_STREAMS) {
      throw new HttpError(503, `${MAX_STREAMS} pages are open: close one and reload this one`);
    }
    const id = randomUUID();
    const stream = new EventStream(response, this.#run, this.#activity, this.#stopping.signal);
    this.#streams.set(id, stream);
    response.on("close", () => {
      stream.close();
      this.#streams.delete(id);
    });
    response.writeHead(200, { ...SECURITY_HEADERS, "content-type": "text/event-stream; charset=utf-8" });
    stream.start(id);
  }

  /** Replaces what a page watches. What it already watched is not sent again. */
  watch(id: string, requests: readonly TopicRequest[]): void {
    const stream = this.#streams.get(id);
    if (stream === undefined) throw new HttpError(404, "the stream of events has ended: reload the page");
    stream.watch(requests);
  }

  close(): void {
    this.#stopping.abort();
    for (const stream of this.#streams.values()) stream.close();
  }
}

interface WatchedTopic {
  readonly topic: Topic;
  /** When to read it again at the earliest, by `performance.now()`. */
  dueAt: number;
}

class EventStream {
  readonly #response: ServerResponse;
  readonly #run: RunRead;
  readonly #activity: Activity;
  readonly #signal: AbortSignal;
  readonly #ending = new AbortController();
  #topics = new Map<string, WatchedTopic>();
  #watched = Promise.withResolvers<void>();
  #sentAt = performance.now();

  constructor(response: ServerResponse, run: RunRead, activity: Activity, stopping: AbortSignal) {
    this.#response = response;
    this.#run = run;
    this.#activity = activity;
    this.#signal = AbortSignal.any([stopping, this.#ending.signal]);
  }

  start(id: string): void {
    this.#response.write(`event: hello\ndata: ${JSON.stringify({ id })}\n\n`);
    void this.#loop();
  }

  close(): void {
    this.#ending.abort();
  }

  watch(requests: readonly TopicRequest[]): void {
    const next = new Map<string, WatchedTopic>();
    for (const request of requests) {
      const key = JSON.stringify(request);
      next.set(key, this.#topics.get(key) ?? { topic: topicOf(request), dueAt: 0 });
    }
    this.#topics = next;
    this.#watched.resolve();
    this.#watched = Promise.withResolvers();
  }

  async #loop(): Promise<void> {
    try {
      while (!this.#signal.aborted) {
        // Before the reads: what happens during them is not missed.
        const { next } = this.#activity;
        const watched = this.#watched.promise;
        await this.#sendChanges();
        await Promise.race([watched, sleep(MIN_PAUSE_MS, undefined, { signal: this.#signal })]);
        await Promise.race([watched, next, sleep(TICK_MS, undefined, { signal: this.#signal })]);
      }
      this.#response.end();
    } catch (error) {
      if (this.#signal.aborted) this.#response.end();
      else this.#response.destroy(error instanceof Error ? error : undefined);
    }
  }

  async #sendChanges(): Promise<void> {
    for (const [key, watched] of this.#topics) {
      const startedAt = performance.now();
      if (startedAt < watched.dueAt) continue;
      const update = await watched.topic.update(this.#run);
      const endedAt = performance.now();
      watched.dueAt = endedAt + PAUSE_PER_READ * (endedAt - startedAt);
      // The page may have turned to something else meanwhile.
      if (update === undefined || !this.#topics.has(key)) continue;
      await this.#write(`data: ${JSON.stringify(update)}\n\n`);
    }
    if (performance.now() - this.#sentAt > HEARTBEAT_MS) await this.#write(": alive\n\n");
  }

  /** Waits while the connection is slower than the changes. */
  async #write(text: string): Promise<void> {
    this.#signal.throwIfAborted();
    this.#sentAt = performance.now();
    if (!this.#response.write(text)) await once(this.#response, "drain", { signal: this.#signal });
  }
}

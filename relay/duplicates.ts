/** How long copies of one event may be apart, in milliseconds. A later one is forwarded again, which does no harm. */
const WINDOW_MS = 10_000;
/** Events that are remembered in a window: some tens of megabytes. */
const MOST_REMEMBERED = 50_000;

interface Seen {
  /** Who delivered it, once for each copy. */
  readonly nodes: string[];
  /** How often it was published, as far as is known: the most copies that one node delivered. */
  publications: number;
}

/**
 * Tells the copies of one event apart. A cluster sends what is published on one node to all, and each node delivers it
 * once to each of its subscribers: so the second copy from one node is a second publication (an execution that was
 * replayed and ended again), and what comes from another node up to that number is not.
 */
export class Duplicates {
  readonly #now: () => number;
  #recent = new Map<string, Seen>();
  #older = new Map<string, Seen>();
  #begunMs: number;

  /** `now` gives milliseconds. */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
    this.#begunMs = now();
  }

  /** Notes a copy that a node delivered; whether it is of a publication that no copy has told of yet. */
  isNew(node: string, event: string): boolean {
    this.#forget();
    const seen = this.#recent.get(event) ?? this.#older.get(event);
    if (seen === undefined) {
      this.#recent.set(event, { nodes: [node], publications: 1 });
      return true;
    }
    seen.nodes.push(node);
    const copies = seen.nodes.reduce((sum, name) => (name === node ? sum + 1 : sum), 0);
    if (copies <= seen.publications) return false;
    seen.publications = copies;
    return true;
  }

  /** Two generations: an event is remembered for one window at least and for two at most. */
  #forget(): void {
    const nowMs = this.#now();
    if (nowMs - this.#begunMs < WINDOW_MS && this.#recent.size < MOST_REMEMBERED) return;
    this.#older = this.#recent;
    this.#recent = new Map();
    this.#begunMs = nowMs;
  }
}

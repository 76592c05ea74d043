/** Copies of an event within this time are recognized. A later one is forwarded again, which is harmless. */
const WINDOW_MS = 10_000;
/** Maximum events per generation: some tens of megabytes. */
const MAX_REMEMBERED = 50_000;

interface Seen {
  /** The node of each copy. */
  readonly nodes: string[];
  /** Known publications of the event: the greatest number of copies from one node. */
  publications: number;
}

/**
 * Recognizes copies of an event that several cluster nodes deliver.
 *
 * A cluster broadcasts each publication to all nodes, and each node delivers it once to each subscriber. So a second copy
 * from the same node is a second publication: the execution was replayed and has ended again.
 */
export class Duplicates {
  readonly #now: () => number;
  #recent = new Map<string, Seen>();
  #older = new Map<string, Seen>();
  #begunMs: number;

  /** `now` returns milliseconds. */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
    this.#begunMs = now();
  }

  /** Records a copy that a node delivered. Returns whether it is the first copy of its publication. */
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

  /** Two generations: an event is remembered for one to two windows. */
  #forget(): void {
    const nowMs = this.#now();
    if (nowMs - this.#begunMs < WINDOW_MS && this.#recent.size < MAX_REMEMBERED) return;
    this.#older = this.#recent;
    this.#recent = new Map();
    this.#begunMs = nowMs;
  }
}

const MAX_LISTED = 50;
const SHOWN_LENGTH = 100;

/** Every fault of one specification, each with its place; beyond fifty they are only counted. */
export class ErrorList {
  readonly #source: string;
  readonly #listed: string[] = [];
  #count = 0;

  /** `source` is what a user calls the specification, usually its file name. */
  constructor(source: string) {
    this.#source = source;
  }

  /** `place` is a path like `tasks[3].id`, or empty for the specification as a whole. */
  add(place: string, message: string): void {
    this.#count += 1;
    if (this.#count > MAX_LISTED) return;
    this.#listed.push([this.#source, place, message].filter((part) => part !== "").join(": "));
  }

  get none(): boolean {
    return this.#count === 0;
  }

  list(): string[] {
    const rest = this.#count - this.#listed.length;
    return rest === 0 ? this.#listed : [...this.#listed, `${this.#source}: and ${rest} more errors`];
  }
}

/** A user's text, quoted and cut to a readable length. */
export function quoted(text: string): string {
  return JSON.stringify(text.length > SHOWN_LENGTH ? `${text.slice(0, SHOWN_LENGTH)}…` : text);
}

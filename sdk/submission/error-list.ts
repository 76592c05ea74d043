const MAX_LISTED = 50;
const MAX_QUOTED_LENGTH = 100;

/** Collects the errors of one workflow file, each with its position. After 50 errors it only counts. */
export class ErrorList {
  readonly #source: string;
  readonly #listed: string[] = [];
  #count = 0;

  /** `source` names the workflow in the errors, usually a file name. */
  constructor(source: string) {
    this.#source = source;
  }

  /** `path` is like `tasks[3].id` or `line 3, column 14`. Empty for the file as a whole. */
  add(path: string, message: string): void {
    this.#count += 1;
    if (this.#count > MAX_LISTED) return;
    this.#listed.push([this.#source, path, message].filter((part) => part !== "").join(": "));
  }

  get isEmpty(): boolean {
    return this.#count === 0;
  }

  list(): string[] {
    const rest = this.#count - this.#listed.length;
    return rest === 0 ? this.#listed : [...this.#listed, `${this.#source}: and ${rest} more errors`];
  }
}

/** Text of a user, in quotes and cut to 100 characters. */
export function quoted(text: string): string {
  return JSON.stringify(text.length > MAX_QUOTED_LENGTH ? `${text.slice(0, MAX_QUOTED_LENGTH)}…` : text);
}

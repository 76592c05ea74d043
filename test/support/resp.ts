/** A parser for RESP 2, the protocol of Valkey, that finds the end of each command and reply. */

const CR = 0x0d;
const ARRAY = 0x2a;
const BULK = 0x24;
const LINE_END = 2;

export interface Frame {
  readonly bytes: Buffer;
  /** The name and arguments of a command, or the strings of a reply that is a flat array. */
  readonly words: readonly string[];
}

/** Splits a stream into complete values. */
export class RespStream {
  #buffer: Buffer = Buffer.alloc(0);

  push(chunk: Buffer): void {
    this.#buffer = this.#buffer.length === 0 ? chunk : Buffer.concat([this.#buffer, chunk]);
  }

  /** Removes and returns the next value; undefined if it is incomplete. */
  next(): Frame | undefined {
    const end = endOf(this.#buffer, 0);
    if (end === undefined) return undefined;
    const bytes = this.#buffer.subarray(0, end);
    this.#buffer = this.#buffer.subarray(end);
    return { bytes, words: wordsOf(bytes) };
  }

  /** Removes and returns all bytes received so far. */
  rest(): Buffer {
    const bytes = this.#buffer;
    this.#buffer = Buffer.alloc(0);
    return bytes;
  }
}

/** The end of the value that begins at `start`; undefined if it is incomplete. */
function endOf(buffer: Buffer, start: number): number | undefined {
  const line = buffer.indexOf(CR, start);
  if (line < 0 || line + LINE_END > buffer.length) return undefined;
  const next = line + LINE_END;
  const type = buffer[start];
  if (type !== ARRAY && type !== BULK) return next;
  const count = Number(buffer.toString("latin1", start + 1, line));
  if (count < 0) return next;
  if (type === BULK) {
    const end = next + count + LINE_END;
    return end <= buffer.length ? end : undefined;
  }
  let at: number | undefined = next;
  for (let index = 0; index < count && at !== undefined; index += 1) at = endOf(buffer, at);
  return at;
}

function wordsOf(bytes: Buffer): string[] {
  if (bytes[0] !== ARRAY) return [];
  const words: string[] = [];
  let at = bytes.indexOf(CR) + LINE_END;
  while (at < bytes.length && bytes[at] === BULK) {
    const line = bytes.indexOf(CR, at);
    const length = Number(bytes.toString("latin1", at + 1, line));
    if (length < 0) return words;
    words.push(bytes.toString("utf8", line + LINE_END, line + LINE_END + length));
    at = line + LINE_END + length + LINE_END;
  }
  return words;
}

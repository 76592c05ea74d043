/**
 * Sends a pipeline through iovalkey's `sendCommand`, without its `pipeline()`.
 *
 * For each command, iovalkey's pipeline creates an object with three promises, looks up keys and flattens arguments. For a
 * wide fan-out, that took a third of the client's CPU time. Here all commands share one promise and one write.
 *
 * This relies on internals of iovalkey, each of which `test/valkey/iovalkey-internals.test.ts` checks:
 * - `sendCommand(command, stream)` accepts any object with the members of `SentCommand`.
 * - For a stream with `isPipeline`, it calls `stream.write` exactly once per command: at once if the client is connected,
 *   else for all commands together when it is. In the same tick, it queues the command for its reply.
 * - The `stream` of a client is its socket.
 * - Replies settle the commands in order: `resolve` receives Buffers, and `reject` receives a ReplyError.
 * - A lost connection rejects the commands in flight. `disconnect()` settles them: replies already sent may still arrive.
 * - A client that has ended rejects commands at once.
 */

import type { ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";

const CRLF = Buffer.from("\r\n");

/** The part of iovalkey's `Redis` that sends a command of a pipeline. */
export interface CommandSender {
  /** The socket, once the client has begun to connect. */
  readonly stream: { write(data: Buffer): unknown };
  sendCommand(command: SentCommand, stream: unknown): unknown;
}

interface SentCommand {
  readonly name: string;
  /** The command's position in its pipeline. */
  readonly pipelineIndex?: number;
  readonly inTransaction: boolean;
  toWritable(socket: object): string | Buffer;
  resolve(reply: unknown): void;
  reject(error: Error): void;
}

/** Sends all commands in one write, and waits for all replies. Returns results in the commands' order. Never rejects. */
export function sendPipeline(
  sender: CommandSender,
  commands: readonly ValkeyCommand[],
): Promise<ValkeyResult[]> {
  const { promise, resolve } = Promise.withResolvers<ValkeyResult[]>();
  const results = new Array<ValkeyResult>(commands.length);
  let pending = commands.length;
  const settle = (index: number, result: ValkeyResult): void => {
    results[index] = result;
    pending -= 1;
    if (pending === 0) resolve(results);
  };
  let unwritten = commands.length;
  const stream = {
    isPipeline: true,
    destination: { redis: sender },
    // iovalkey calls this once per command, when the client is connected. The last call sends all of them.
    write: (): void => {
      unwritten -= 1;
      if (unwritten === 0) sender.stream.write(encode(commands));
    },
  };
  for (const [index, { name }] of commands.entries()) {
    sender.sendCommand(new PipelinedCommand(name, index, settle), stream);
  }
  return promise;
}

class PipelinedCommand implements SentCommand {
  readonly name: string;
  readonly pipelineIndex: number;
  readonly inTransaction = false;
  readonly #settle: (index: number, result: ValkeyResult) => void;

  constructor(name: string, index: number, settle: (index: number, result: ValkeyResult) => void) {
    this.name = name;
    this.pipelineIndex = index;
    this.#settle = settle;
  }

  /** Empty: `encode` writes the pipeline as a whole. */
  toWritable(): string {
    return "";
  }

  resolve(reply: unknown): void {
    this.#settle(this.pipelineIndex, { ok: true, value: textOf(reply) });
  }

  reject(error: Error): void {
    this.#settle(this.pipelineIndex, { ok: false, error });
  }
}

/** Encodes commands in Valkey's protocol (RESP), which gives lengths in bytes. */
function encode(commands: readonly ValkeyCommand[]): Buffer {
  let text = "";
  for (const { name, args } of commands) {
    text += `*${args.length + 1}\r\n$${name.length}\r\n${name}\r\n`;
    for (const arg of args) {
      if (typeof arg === "object") return encodeBytes(commands);
      const word = String(arg);
      text += `$${word.length}\r\n${word}\r\n`;
    }
  }
  // Most pipelines are pure ASCII, with as many bytes as characters. One check of the whole is faster than one per word.
  return Buffer.byteLength(text) === text.length ? Buffer.from(text, "latin1") : encodeBytes(commands);
}

function encodeBytes(commands: readonly ValkeyCommand[]): Buffer {
  const parts: Buffer[] = [];
  for (const { name, args } of commands) {
    parts.push(Buffer.from(`*${args.length + 1}\r\n`));
    for (const word of [name, ...args]) {
      const bytes = typeof word === "object" ? word : Buffer.from(String(word));
      parts.push(Buffer.from(`$${bytes.length}\r\n`), bytes, CRLF);
    }
  }
  return Buffer.concat(parts);
}

/** Converts the Buffers of a reply to strings. */
function textOf(reply: unknown): unknown {
  if (Buffer.isBuffer(reply)) return reply.toString();
  return Array.isArray(reply) ? reply.map(textOf) : reply;
}

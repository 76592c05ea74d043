/**
 * A pipeline, handed to iovalkey command by command.
 *
 * iovalkey's own pipeline makes an object with three promises of each command, looks for its keys and flattens its
 * arguments: for a wide fan-out that was a third of the client's work. Here all commands share one promise.
 */

import type { ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";

const CRLF = Buffer.from("\r\n");

/** Where a pipeline goes: a server, or the primary of a slot, which the cluster's client puts in here. */
export interface Destination {
  readonly slot?: number;
  redis?: { readonly stream: { write(data: Buffer): unknown } };
}

/** What iovalkey's clients, standalone or cluster, do with the commands of a pipeline and the stream to write to. */
export interface CommandSender {
  sendCommand(command: SentCommand, stream: unknown, destination: Destination): unknown;
}

interface SentCommand {
  readonly name: string;
  /** The command's place in its pipeline. */
  readonly pipelineIndex?: number;
  readonly inTransaction: boolean;
  toWritable(socket: object): string | Buffer;
  resolve(reply: unknown): void;
  reject(error: Error): void;
}

/** Sends all commands in one write, and waits for all replies. Results are in the commands' order; never rejects. */
export function sendPipeline(
  sender: CommandSender,
  destination: Destination,
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
    destination,
    // Called for each command, once it is known where they all go.
    write: (): void => {
      unwritten -= 1;
      if (unwritten === 0) destination.redis?.stream.write(encode(commands));
    },
  };
  for (const [index, { name }] of commands.entries()) {
    sender.sendCommand(new PipelinedCommand(name, index, settle), stream, destination);
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

  /** Nothing: the pipeline is encoded as a whole. */
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

/** Commands in Valkey's protocol, where a word's length is that of its bytes. */
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
  // Nearly all is ASCII, and then the characters were the bytes: to ask that of each word would take longer.
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

/** A reply with texts in the place of bytes. */
function textOf(reply: unknown): unknown {
  if (Buffer.isBuffer(reply)) return reply.toString();
  return Array.isArray(reply) ? reply.map(textOf) : reply;
}

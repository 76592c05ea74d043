/** One connection to one node. */

import { Redis, type RedisOptions, ReplyError } from "iovalkey";
import type { ValkeyArgument, ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";
import { messageOf, UnreachableError, ValkeyError } from "#shared/errors.ts";
import { type NodeAddress, nameOf } from "#shared/valkey/address.ts";
import { sendPipeline } from "#shared/valkey/pipeline.ts";

/**
 * Options of a client that fails fast: it does not reconnect, resend or queue commands. After a lost connection, commands
 * fail at once, and the caller creates a new client.
 */
const FAIL_FAST: RedisOptions = {
  lazyConnect: true,
  maxRetriesPerRequest: 0,
  retryStrategy: () => null,
  // Resending an FCALL is harmless, but its reply would describe the second call and not the first.
  autoResendUnfulfilledCommands: false,
  // Autopipelining routes an FCALL by its first argument, which is not a key.
  enableAutoPipelining: false,
};

/**
 * The command that checks an idle connection. Any reply will do. INFO needs no further permission: iovalkey sends it
 * on every new connection. The section `keyspace` is the shortest.
 */
const PROBE = ["info", "keyspace"] as const;

export interface ConnectionOptions {
  /** How to connect and authenticate. */
  readonly redis: RedisOptions;
  /** Timeout of a reply in milliseconds, including the time to connect. */
  readonly timeoutMs: number;
  readonly onError: (error: ValkeyError) => void;
  /** The connection was lost, or could not be opened. */
  readonly onEnd: () => void;
}

/** A connection to one node. It opens with the first command, and never again. All errors are of class ValkeyError. */
export class Connection {
  /** `host:port`, for messages. It never contains a password. */
  readonly name: string;
  readonly #redis: Redis;
  readonly #timeoutMs: number;
  readonly #onEnd: () => void;
  #isClosed = false;
  #lastError: string | undefined;
  /** Milliseconds since the epoch. A frozen process may stop other clocks. */
  #lastReplyAt = Date.now();

  constructor(node: NodeAddress, { redis, timeoutMs, onError, onEnd }: ConnectionOptions) {
    this.name = nameOf(node);
    this.#timeoutMs = timeoutMs;
    this.#onEnd = onEnd;
    this.#redis = new Redis({ ...FAIL_FAST, ...redis, ...node });
    // Without a listener, a lost connection would end the process.
    this.#redis.on("error", (error) => {
      this.#lastError = messageOf(error);
      onError(this.#toValkeyError(error));
    });
    this.#redis.on("end", () => {
      this.#isClosed = true;
      onEnd();
    });
  }

  /** False once the connection was lost or closed. */
  get isOpen(): boolean {
    return !this.#isClosed;
  }

  /** Milliseconds since the last reply. */
  get idleMs(): number {
    return Date.now() - this.#lastReplyAt;
  }

  /** Sends one command. Rejects with a ValkeyError. */
  call(name: string, args: readonly ValkeyArgument[], timeoutMs = this.#timeoutMs): Promise<unknown> {
    return this.#withTimeout(timeoutMs, () => this.#redis.call(name, [...args]));
  }

  /** Sends all commands in one write. Returns one result per command, in their order. Never rejects. */
  async pipelined(commands: readonly ValkeyCommand[]): Promise<ValkeyResult[]> {
    try {
      const results = await this.#withTimeout(this.#timeoutMs, () => sendPipeline(this.#redis, commands));
      return results.map((result) =>
        result.ok ? result : { ok: false, error: this.#toValkeyError(result.error) },
      );
    } catch (error) {
      const failure = { ok: false, error: this.#toValkeyError(error) } as const;
      return commands.map(() => failure);
    }
  }

  /** Returns whether the node replies in time, even with an error. If it does not, the connection is closed. */
  async isAlive(timeoutMs: number): Promise<boolean> {
    const [name, ...args] = PROBE;
    try {
      await this.call(name, args, timeoutMs);
      return true;
    } catch (error) {
      return !(error instanceof UnreachableError);
    }
  }

  /** Commands in flight fail, unless the server has already sent their replies. */
  close(): void {
    this.#isClosed = true;
    this.#redis.disconnect();
  }

  /** Applies one timeout to everything that `send` sends. After a timeout, the connection is closed. */
  async #withTimeout<T>(timeoutMs: number, send: () => Promise<T>): Promise<T> {
    if (this.#isClosed) throw this.#unreachable("the connection is closed");
    const { promise: timedOut, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(() => {
      this.#lastError = `no reply within ${timeoutMs} ms`;
      reject(new Error(this.#lastError));
      this.close();
      // iovalkey's "end" follows only when the socket is destroyed.
      this.#onEnd();
    }, timeoutMs);
    try {
      const reply = await Promise.race([send(), timedOut]);
      this.#lastReplyAt = Date.now();
      return reply;
    } catch (error) {
      throw this.#toValkeyError(error);
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Converts an error for the caller. An error reply keeps its text; a connection error also names the node. iovalkey's
   * error is not kept as the cause: it contains the command, with a password or payload in it, and errors are logged.
   */
  #toValkeyError(thrown: unknown): ValkeyError {
    if (thrown instanceof ValkeyError) return thrown;
    return thrown instanceof ReplyError
      ? new ValkeyError(messageOf(thrown))
      : this.#unreachable(messageOf(thrown));
  }

  #unreachable(reason: string): UnreachableError {
    // iovalkey's "Connection is closed." hides the reason that an earlier event gave.
    const isVague = /connection is closed/i.test(reason);
    return new UnreachableError(`Valkey at ${this.name}: ${(isVague && this.#lastError) || reason}`);
  }
}

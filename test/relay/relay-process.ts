import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { expect, vi } from "vitest";
import { parseJsonObject } from "#shared/contract/message.ts";
import type { ValkeyAddress } from "#shared/valkey/address.ts";
import type { QueueProbe } from "#test/support/dispatch.ts";

const MAIN = fileURLToPath(new URL("../../relay/main.ts", import.meta.url));

/** The relay in a child process, and its log lines. */
export class RelayProcess implements AsyncDisposable {
  readonly child: ChildProcess;
  readonly lines: Record<string, unknown>[] = [];
  /** Output that is not a JSON log line. */
  errors = "";
  readonly #closed: Promise<unknown>;

  private constructor(environment: Readonly<Record<string, string>>) {
    this.child = spawn(process.execPath, [MAIN], {
      stdio: ["ignore", "pipe", "pipe"],
      env: { PATH: process.env.PATH, ...environment },
    });
    this.#closed = once(this.child, "close");
    // Warnings and errors are on standard error.
    for (const stream of [this.child.stdout, this.child.stderr]) {
      let rest = "";
      stream?.setEncoding("utf8").on("data", (text: string) => {
        const parts = (rest + text).split("\n");
        rest = parts.pop() ?? "";
        for (const part of parts) this.#addLine(part);
      });
    }
  }

  #addLine(text: string): void {
    const line = parseJsonObject(text);
    if (line === undefined) this.errors += `${text}\n`;
    else this.lines.push(line);
  }

  /** Starts the relay and waits until it has subscribed to a number of nodes. */
  static async subscribed(
    { url, cluster }: Pick<ValkeyAddress, "url" | "cluster">,
    probe: QueueProbe,
    nodes: number,
    environment: Readonly<Record<string, string>> = {},
  ): Promise<RelayProcess> {
    const relay = new RelayProcess({
      ...probe.queue.environment,
      VALKEY_URL: url.href,
      VALKEY_CLUSTER_MODE: String(cluster),
      COMPLETIONS_QUEUE_URL: probe.queue.queueUrl,
      ...environment,
    });
    try {
      await relay.untilSubscribed(nodes);
      return relay;
    } catch (error) {
      await relay[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The log lines with a message. */
  logged(message: string): Record<string, unknown>[] {
    return this.lines.filter((line) => line.message === message);
  }

  /** Waits until the relay has logged a number of subscriptions. */
  async untilSubscribed(times: number): Promise<void> {
    const subscribed = vi.waitFor(
      () => expect(this.logged("node subscribed").length).toBeGreaterThanOrEqual(times),
      { timeout: 20_000, interval: 20 },
    );
    const ended = this.#closed.then(() => {
      throw new Error(`the relay ended: ${this.errors}`);
    });
    await Promise.race([subscribed, ended]);
  }

  /** Sends a signal. */
  stop(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }

  /** Waits for the end of the process. Resolves with its exit status and its last log line, which has the counts. */
  async ended(): Promise<{ code: number | null; last: Record<string, unknown> }> {
    await this.#closed;
    return { code: this.child.exitCode, last: this.lines.at(-1) ?? {} };
  }

  end(): ReturnType<RelayProcess["ended"]> {
    this.stop("SIGTERM");
    return this.ended();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.child.kill("SIGKILL");
    await this.#closed;
  }
}

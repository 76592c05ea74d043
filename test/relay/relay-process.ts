import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { expect, vi } from "vitest";
import { parseJsonObject } from "#shared/contract/message.ts";
import type { ValkeyAddress } from "#shared/valkey/address.ts";
import type { QueueProbe } from "#test/support/dispatch.ts";

const MAIN = fileURLToPath(new URL("../../relay/main.ts", import.meta.url));

/** The relay as a process of its own, and the lines of JSON that it has written. */
export class RelayProcess implements AsyncDisposable {
  readonly child: ChildProcess;
  readonly lines: Record<string, unknown>[] = [];
  /** What it has written besides. */
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
        for (const part of parts) this.#hear(part);
      });
    }
  }

  #hear(text: string): void {
    const line = parseJsonObject(text);
    if (line === undefined) this.errors += `${text}\n`;
    else this.lines.push(line);
  }

  /** Starts it, and waits until it hears so many nodes. */
  static async hearing(
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
      await relay.heard(nodes);
      return relay;
    } catch (error) {
      await relay[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The lines with this message. */
  said(message: string): Record<string, unknown>[] {
    return this.lines.filter((line) => line.message === message);
  }

  /** Waits until it has begun to hear a node so many times. */
  async heard(times: number): Promise<void> {
    const isHeard = vi.waitFor(
      () => expect(this.said("a node is heard").length).toBeGreaterThanOrEqual(times),
      { timeout: 20_000, interval: 20 },
    );
    const ended = this.#closed.then(() => {
      throw new Error(`the relay ended: ${this.errors}`);
    });
    await Promise.race([isHeard, ended]);
  }

  /** Tells it to stop. */
  stop(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }

  /** Waits for its end; the exit status and the last line, which has the counts. */
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

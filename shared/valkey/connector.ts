/**
 * Connections that have authenticated themselves before iovalkey sees them.
 *
 * iovalkey has no credentials provider. It reads a password when a client is made, and hands it on to the nodes of a
 * cluster, which connect when they are first used: a token may have run out by then. A connector is asked for every
 * connection, also for those of nodes that are discovered later and for those that look for the slots' owners. What it
 * rejects with is what the commands fail with, where iovalkey itself would say no more than that there is no connection.
 */

import { createConnection, isIP, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { AbstractConnector } from "iovalkey";
import { messageOf } from "#shared/errors.ts";

export interface Credentials {
  /** Empty: the server's default user. */
  readonly username: string;
  readonly password: string;
}

/**
 * Credentials for one connection; undefined: the server wants none. `refused` are those that it has just refused:
 * others are tried, the same ones say that there are no others.
 */
export type CredentialProvider = (refused?: Credentials) => Promise<Credentials | undefined>;

/** `ca`: what to trust in the place of what Node trusts, as PEM text. */
export interface Tls {
  readonly ca?: string;
}

/** Milliseconds for a connection to come about and to be authenticated. */
const CONNECT_TIMEOUT_MS = 2_000;
/** For iovalkey: milliseconds after which a connection that is closed and stays open is destroyed. */
const DISCONNECT_TIMEOUT_MS = 2_000;

/** A connector for iovalkey's option `Connector`. Without `tls`, credentials travel as they are. */
export function authenticatingConnector(
  source: CredentialProvider,
  tls: Tls | undefined,
): new (
  options: unknown,
) => AbstractConnector {
  return class extends AbstractConnector {
    readonly #host: string;
    readonly #port: number;

    constructor(options: unknown) {
      super(DISCONNECT_TIMEOUT_MS);
      ({ host: this.#host, port: this.#port } = addressIn(options));
    }

    override async connect(): Promise<Socket> {
      try {
        return await this.#connect();
      } catch (error) {
        // The client takes a ValkeyError for one of its own, which it has dealt with.
        throw new Error(messageOf(error));
      }
    }

    async #connect(): Promise<Socket> {
      this.connecting = true;
      const credentials = await source();
      if (!this.connecting) throw new Error("the connection was closed before it came about");
      const socket = tls === undefined ? this.#openPlain() : this.#openTls(tls);
      this.stream = socket;
      const { promise: lost, reject } = Promise.withResolvers<never>();
      socket.once("error", reject);
      socket.once("close", () => reject(new Error("the connection was closed before it was authenticated")));
      const timer = setTimeout(() => {
        reject(new Error(`no connection within ${CONNECT_TIMEOUT_MS} ms`));
      }, CONNECT_TIMEOUT_MS);
      try {
        const opened = new Promise((resolve) => {
          socket.once(tls === undefined ? "connect" : "secureConnect", resolve);
        });
        await Promise.race([opened, lost]);
        if (credentials !== undefined) await Promise.race([this.#authenticate(socket, credentials), lost]);
        return socket;
      } catch (error) {
        socket.destroy();
        throw error;
      } finally {
        clearTimeout(timer);
        // It may well be lost later, which is iovalkey's to notice.
        lost.catch(() => undefined);
      }
    }

    #openPlain(): Socket {
      return createConnection({ host: this.#host, port: this.#port });
    }

    /** The certificate must be for the host that the cluster names, by name or by address. */
    #openTls({ ca }: Tls): Socket {
      return connectTls({
        host: this.#host,
        port: this.#port,
        ...(isIP(this.#host) === 0 ? { servername: this.#host } : {}),
        ...(ca === undefined ? {} : { ca }),
      });
    }

    async #authenticate(socket: Socket, credentials: Credentials): Promise<void> {
      const answer = await authenticate(socket, credentials);
      if (isIn(answer)) return;
      let last = answer;
      if (answer.startsWith("-WRONGPASS")) {
        const others = await source(credentials);
        if (others !== undefined && !isSame(others, credentials)) last = await authenticate(socket, others);
      }
      if (isIn(last)) return;
      throw new Error(
        `${this.#host}:${this.#port} refused the user "${credentials.username || "default"}": ${last.slice(1)}`,
      );
    }
  };
}

/** A password for a server that wants none does no harm. */
function isIn(answer: string): boolean {
  return answer === "+OK" || answer.startsWith("-ERR AUTH <password> called without any password configured");
}

/** The server's one-line answer. */
function authenticate(socket: Socket, { username, password }: Credentials): Promise<string> {
  const words = ["AUTH", ...(username === "" ? [] : [username]), password];
  const { promise, resolve } = Promise.withResolvers<string>();
  let answer = "";
  const hear = (chunk: Buffer): void => {
    answer += chunk.toString();
    if (!answer.endsWith("\r\n")) return;
    socket.off("data", hear);
    // Nothing is lost until whoever reads next resumes it.
    socket.pause();
    resolve(answer.trimEnd());
  };
  socket.on("data", hear).resume();
  socket.write(
    `*${words.length}\r\n${words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join("")}`,
  );
  return promise;
}

function isSame(one: Credentials, other: Credentials): boolean {
  return one.username === other.username && one.password === other.password;
}

function addressIn(options: unknown): { host: string; port: number } {
  const { host, port } = Object(options);
  if (typeof host === "string" && typeof port === "number") return { host, port };
  throw new TypeError("iovalkey names no host and port to connect to");
}

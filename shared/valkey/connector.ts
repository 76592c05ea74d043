/**
 * Opens and authenticates connections before iovalkey uses them.
 *
 * iovalkey has no credential provider. It reads the password once, when a client is created, but cluster nodes connect
 * later: a token may have expired by then. A connector is called for every connection, including those to nodes
 * discovered later and those that refresh the slot table. Commands fail with the connector's error; iovalkey alone would
 * only report that there is no connection.
 */

import { createConnection, isIP, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { AbstractConnector } from "iovalkey";
import { messageOf } from "#shared/errors.ts";

export interface Credentials {
  /** Empty for the server's default user. */
  readonly username: string;
  readonly password: string;
}

/**
 * Returns the credentials for one connection, or undefined if the server requires none. It is called a second time with
 * the `rejected` credentials if the server rejects them. Returning the same ones again means that there are no others.
 */
export type CredentialProvider = (rejected?: Credentials) => Promise<Credentials | undefined>;

export interface TlsOptions {
  /** Certificates to trust instead of Node's own, as PEM text. */
  readonly ca?: string;
}

/** Timeout for opening and authenticating a connection. */
const CONNECT_TIMEOUT_MS = 2_000;
/** For iovalkey: how long a disconnect may take before the socket is destroyed. */
const DISCONNECT_TIMEOUT_MS = 2_000;

/** Returns a class for iovalkey's option `Connector`. Without `tls`, credentials are sent unencrypted. */
export function authenticatingConnector(
  provideCredentials: CredentialProvider,
  tls: TlsOptions | undefined,
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
        // A plain Error: our client takes a ValkeyError for one that it has already converted.
        throw new Error(messageOf(error));
      }
    }

    async #connect(): Promise<Socket> {
      this.connecting = true;
      const credentials = await provideCredentials();
      if (!this.connecting) throw new Error("the connection was closed before it was opened");
      const socket = tls === undefined ? this.#openPlain() : this.#openTls(tls);
      this.stream = socket;
      const { promise: lost, reject } = Promise.withResolvers<never>();
      // Not once(): a socket may emit a second error, and an error without a listener ends the process.
      socket.on("error", reject);
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
        // From here on iovalkey handles the loss of the connection.
        lost.catch(() => undefined);
      }
    }

    #openPlain(): Socket {
      return createConnection({ host: this.#host, port: this.#port });
    }

    /** The certificate must match the host in the cluster's slot table, whether that is a name or an address. */
    #openTls({ ca }: TlsOptions): Socket {
      return connectTls({
        host: this.#host,
        port: this.#port,
        ...(isIP(this.#host) === 0 ? { servername: this.#host } : {}),
        ...(ca === undefined ? {} : { ca }),
      });
    }

    async #authenticate(socket: Socket, credentials: Credentials): Promise<void> {
      const reply = await authenticate(socket, credentials);
      if (isAccepted(reply)) return;
      let lastReply = reply;
      if (reply.startsWith("-WRONGPASS")) {
        const others = await provideCredentials(credentials);
        if (others !== undefined && !isEqual(others, credentials))
          lastReply = await authenticate(socket, others);
      }
      if (isAccepted(lastReply)) return;
      throw new Error(
        `${this.#host}:${this.#port} rejected the user "${credentials.username || "default"}": ${lastReply.slice(1)}`,
      );
    }
  };
}

/** Also accepts a server that requires no password. */
function isAccepted(reply: string): boolean {
  return reply === "+OK" || reply.startsWith("-ERR AUTH <password> called without any password configured");
}

/** Sends AUTH, and returns the server's one-line reply. */
function authenticate(socket: Socket, { username, password }: Credentials): Promise<string> {
  const words = ["AUTH", ...(username === "" ? [] : [username]), password];
  const { promise, resolve } = Promise.withResolvers<string>();
  let reply = "";
  const onData = (chunk: Buffer): void => {
    reply += chunk.toString();
    if (!reply.endsWith("\r\n")) return;
    socket.off("data", onData);
    // Paused, the socket keeps further data until iovalkey reads it.
    socket.pause();
    resolve(reply.trimEnd());
  };
  socket.on("data", onData).resume();
  socket.write(
    `*${words.length}\r\n${words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join("")}`,
  );
  return promise;
}

function isEqual(one: Credentials, other: Credentials): boolean {
  return one.username === other.username && one.password === other.password;
}

function addressIn(options: unknown): { host: string; port: number } {
  const { host, port } = Object(options);
  if (typeof host === "string" && typeof port === "number") return { host, port };
  throw new TypeError("iovalkey passed no host and port to the connector");
}

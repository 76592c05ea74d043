/**
 * A fake of ElastiCache's IAM authentication. A TLS proxy before each node of a real Valkey checks tokens as described in
 * the ElastiCache user guide. It then forwards everything to the node, as an ACL user with the name in the token. Tests
 * choose the lifetimes of tokens and connections, which are 15 minutes and 12 hours in ElastiCache.
 */

import { once } from "node:events";
import { readFileSync } from "node:fs";
import type { AddressInfo, Socket } from "node:net";
import { connect, createServer, type Server, type TLSSocket } from "node:tls";
import { AUTHORITY, CERTIFICATE, type SecuredValkey } from "#test/auth/secured.ts";
import { EMPTY_HASH, parsePresigned, signatureOf } from "#test/auth/signature.ts";
import { RespStream } from "#test/support/resp.ts";

export interface IamRules {
  readonly replicationGroup: string;
  readonly region: string;
  readonly user: string;
  /** The password of the ACL user, known only to the proxy. */
  readonly password: string;
  /** Secret keys and session tokens by access key id. */
  readonly accounts: Map<string, { readonly secretAccessKey: string; readonly sessionToken?: string }>;
  readonly tokenLifetimeMs: number;
  readonly connectionLifetimeMs?: number;
}

const REFUSAL = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";

export class FakeElastiCache implements AsyncDisposable {
  /** The reasons for refused tokens. */
  readonly refused: string[] = [];
  /** The accepted tokens, one per connection. */
  readonly accepted: string[] = [];
  readonly environment: Readonly<Record<string, string>>;
  readonly #proxies: readonly TlsProxy[];

  private constructor(server: SecuredValkey, rules: IamRules, proxies: readonly TlsProxy[]) {
    this.#proxies = proxies;
    this.environment = {
      ...server.environment,
      VALKEY_URL: `rediss://localhost:${proxies[0]?.port}`,
      VALKEY_AUTH: "iam",
      VALKEY_USER: rules.user,
      VALKEY_REPLICATION_GROUP: rules.replicationGroup,
      AWS_REGION: rules.region,
    };
  }

  /** Starts a proxy before every node. The nodes of a cluster announce the proxies' ports. */
  static async before(server: SecuredValkey, rules: IamRules): Promise<FakeElastiCache> {
    const proxies = server.nodes.map(({ tlsUrl }) => new TlsProxy(Number(tlsUrl?.port), rules));
    await Promise.all(proxies.map((proxy) => proxy.listen()));
    await server.announce(proxies.map(({ port }) => port));
    const fake = new FakeElastiCache(server, rules, proxies);
    for (const proxy of proxies) proxy.report = fake;
    return fake;
  }

  /** Closes the connections to one node, or to all nodes. */
  cut(node?: number): void {
    for (const [index, proxy] of this.#proxies.entries())
      if (node === undefined || index === node) proxy.cut();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#proxies.map((proxy) => proxy.close()));
  }
}

class TlsProxy {
  report: Pick<FakeElastiCache, "refused" | "accepted"> = { refused: [], accepted: [] };
  readonly #rules: IamRules;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  constructor(target: number, rules: IamRules) {
    this.#rules = rules;
    const files = { cert: readFileSync(CERTIFICATE.certificate), key: readFileSync(CERTIFICATE.key) };
    this.#server = createServer(files, (client) => this.#serve(this.#keep(client), target));
  }

  async listen(): Promise<void> {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async close(): Promise<void> {
    this.cut();
    this.#server.close();
    await once(this.#server, "close");
  }

  /** Replies in place of the server until a token is accepted. */
  #serve(client: TLSSocket, target: number): void {
    const commands = new RespStream();
    const hear = (chunk: Buffer): void => {
      commands.push(chunk);
      for (let next = commands.next(); next !== undefined; next = commands.next()) {
        const [name, user, token = ""] = next.words;
        if (name?.toLowerCase() !== "auth") {
          client.write("-NOAUTH Authentication required.\r\n");
          continue;
        }
        const problem = user === this.#rules.user ? problemOf(token, this.#rules) : `the user is ${user}`;
        if (problem === undefined) {
          this.report.accepted.push(token);
          client.off("data", hear);
          this.#passOn(client, target);
          return;
        }
        this.report.refused.push(problem);
        client.write(REFUSAL);
      }
    };
    client.on("data", hear);
  }

  #passOn(client: Socket, target: number): void {
    const { user, password, connectionLifetimeMs } = this.#rules;
    const node = this.#keep(connect({ host: "localhost", port: target, ca: readFileSync(AUTHORITY) }));
    node.write(`AUTH ${user} ${password}\r\n`);
    node.pipe(client);
    client.pipe(node);
    node.on("close", () => client.destroy());
    client.on("close", () => node.destroy());
    if (connectionLifetimeMs === undefined) return;
    const timer = setTimeout(() => client.destroy(), connectionLifetimeMs);
    client.on("close", () => clearTimeout(timer));
  }

  #keep<S extends Socket>(socket: S): S {
    this.#sockets.add(socket);
    socket.on("close", () => this.#sockets.delete(socket));
    socket.on("error", () => socket.destroy());
    return socket;
  }
}

/** Returns why a token is refused, or undefined if it is valid. */
function problemOf(token: string, rules: IamRules): string | undefined {
  const request = parsePresigned(token);
  const { host, path, query } = request;
  const [accessKeyId = "", date, ...scope] = (query.get("X-Amz-Credential") ?? "").split("/");
  const account = rules.accounts.get(accessKeyId);
  const signedAt = query.get("X-Amz-Date") ?? "";
  const ageMs =
    Date.now() - Date.parse(signedAt.replace(/(....)(..)(..)T(..)(..)(..)Z/, "$1-$2-$3T$4:$5:$6Z"));
  const checks: readonly (readonly [holds: boolean, problem: string])[] = [
    [host === rules.replicationGroup.toLowerCase() && path === "/", `the token is for ${host}${path}`],
    [query.get("Action") === "connect", "the action is not connect"],
    [query.get("User") === rules.user, `the token is for the user ${query.get("User")}`],
    [query.get("X-Amz-Algorithm") === "AWS4-HMAC-SHA256", "the algorithm is another one"],
    [scope.join("/") === `${rules.region}/elasticache/aws4_request`, `the scope is ${scope.join("/")}`],
    [date === signedAt.slice(0, 8), "the scope is of another day"],
    [Number(query.get("X-Amz-Expires")) <= 900, "the token is for more than 15 minutes"],
    [query.get("X-Amz-SignedHeaders") === "host", "other headers than the host are signed"],
    [ageMs < rules.tokenLifetimeMs, `the token is ${ageMs} ms old`],
    [account !== undefined, `the access key ${accessKeyId} is unknown`],
    [query.get("X-Amz-Security-Token") === account?.sessionToken, "the session is another one"],
    [
      query.get("X-Amz-Signature") === signatureOf(request, account?.secretAccessKey ?? "", EMPTY_HASH),
      "the signature is wrong",
    ],
  ];
  return checks.find(([holds]) => !holds)?.[1];
}

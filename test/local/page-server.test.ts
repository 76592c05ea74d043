import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { Activity } from "#local/activity.ts";
import { type PageServer, startPageServer } from "#local/page/server.ts";
import { audit } from "#operate/read/audit.ts";
import { completeExecution } from "#sdk/worker/complete-execution.ts";
import { parseExecutionId, unwrap } from "#shared/contract/ids.ts";
import { type OperationRunner, operationRunner } from "#test/operate/support.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

const WORKFLOW = JSON.stringify({
  name: "two",
  tasks: [{ id: "first" }, { id: "second", dependsOn: ["first"] }],
});
const JSON_TYPE = { "content-type": "application/json" };

let folder: string;
let runner: OperationRunner;
let server: PageServer;
let base: string;
let token: string;
const activity = new Activity();

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "sluice-page-"));
  await writeFile(join(folder, "index.html"), "<p>the page</p>");
  await writeFile(join(folder, "app.js"), "0");
  await writeFile(join(folder, "notes.txt"), "not part of the page");
  const [standalone] = DEPLOYMENTS;
  if (standalone === undefined) throw new Error("no deployment");
  runner = await operationRunner(standalone);
  server = await startServer(0);
  const url = new URL(server.url);
  base = url.origin;
  token = new URLSearchParams(url.hash.slice(1)).get("token") ?? "";
});

afterAll(async () => {
  await server[Symbol.asyncDispose]();
  runner[Symbol.dispose]();
  await rm(folder, { recursive: true });
});

function startServer(port: number): Promise<PageServer> {
  return startPageServer({ port, folder, services: runner.services, activity, actor: "ann@laptop (page)" });
}

interface Answer {
  readonly status: number;
  readonly text: string;
}

/** Sends any headers, which `fetch` would not. */
async function send(method: string, path: string, headers: object = {}, body = ""): Promise<Answer> {
  const sent = request(`${base}${path}`, { method, headers: { ...headers } }).end(body);
  const [response] = await once(sent, "response");
  let text = "";
  for await (const chunk of response) text += String(chunk);
  return { status: response.statusCode, text };
}

function post(path: string, body: unknown, headers: object = {}): Promise<Answer> {
  return send("POST", path, { ...JSON_TYPE, ...headers }, JSON.stringify(body));
}

/** Tests that run at the same time add entries to the same audit trail. */
const AUDIT = { operation: "audit", input: { limit: 1_000 } };

function targetOf({ target }: { readonly target: string }): string {
  return target;
}

const withToken = (): object => ({ "x-sluice-token": token });

async function submit(flow: string = randomUUID()): Promise<string> {
  const { status, text } = await post("/api/operations/submit", { workflow: WORKFLOW, flow }, withToken());
  expect({ status, text }).toMatchObject({ status: 200 });
  return JSON.parse(text).flow_id;
}

describe("who may ask", () => {
  test.each([
    ["another Host", { host: "evil.example" }],
    ["a Host with another port", { host: "127.0.0.1:1" }],
    ["another Origin", { origin: "https://evil.example" }],
    ["an opaque Origin", { origin: "null" }],
    ["another site", { "sec-fetch-site": "cross-site" }],
    ["another port of this machine", { "sec-fetch-site": "same-site" }],
  ])("%s is refused, also for reads", async (_, headers) => {
    for (const [method, path] of [
      ["GET", "/"],
      ["GET", "/api/events"],
      ["POST", "/api/operations/audit"],
    ] as const) {
      const answer = await send(method, path, { ...JSON_TYPE, ...headers }, method === "POST" ? "{}" : "");
      expect(answer.status, `${method} ${path}`).toBe(403);
    }
  });

  test("localhost and the server's own Origin are accepted", async () => {
    const { host } = new URL(base);
    const local = host.replace("127.0.0.1", "localhost");
    expect((await send("GET", "/", { host: local })).status).toBe(200);
    expect((await post("/api/operations/audit", {}, { origin: base })).status).toBe(200);
  });

  test("a change needs the token, a read does not", async () => {
    const flow = randomUUID();
    const body = { workflow: WORKFLOW, flow };
    for (const headers of [{}, { "x-sluice-token": "wrong" }, { "x-sluice-token": `${token}x` }]) {
      const answer = await post("/api/operations/submit", body, headers);
      expect(answer).toMatchObject({ status: 403, text: expect.stringContaining("sluice dev") });
    }
    const missing = await post("/api/operations/graph", { flow });
    expect(missing).toMatchObject({ status: 400, text: expect.stringContaining("does not exist") });
    await submit(flow);
    expect((await post("/api/operations/graph", { flow })).status).toBe(200);
  });

  test("a body that a form could send is refused", async () => {
    const body = JSON.stringify({});
    expect((await send("POST", "/api/operations/audit", { "content-type": "text/plain" }, body)).status).toBe(
      415,
    );
    expect((await send("POST", "/api/operations/audit", {}, body)).status).toBe(415);
  });
});

describe("requests", () => {
  test("the page may load nothing from elsewhere, and only its own files are sent", async () => {
    const response = await fetch(base);
    expect(await response.text()).toBe("<p>the page</p>");
    expect(response.headers.get("content-type")).toBe("text/html; charset=utf-8");
    expect(response.headers.get("content-security-policy")).toMatch(/^default-src 'none'; script-src 'self'/);
    expect(response.headers.get("x-content-type-options")).toBe("nosniff");
    for (const path of ["/notes.txt", "/../package.json", "/%2e%2e/package.json", "/app.js/"]) {
      expect((await send("GET", path)).status, path).toBe(404);
    }
  });

  test.each([
    ["POST", "/", 405],
    ["GET", "/api/operations/audit", 405],
    ["POST", "/api/operations/toString", 404],
    ["POST", "/api/anything", 404],
    ["POST", "/api/operations/%E0%A4%A", 404],
    ["GET", "//[", 400],
  ])("%s %s is answered with %i", async (method, path, status) => {
    expect((await send(method, path, JSON_TYPE, method === "POST" ? "{}" : "")).status).toBe(status);
  });

  test("invalid input is the caller's error, and names the property", async () => {
    const answer = await post("/api/operations/audit", { limit: 0, other: 1 });
    expect(answer.status).toBe(400);
    expect(JSON.parse(answer.text).error).toMatch(/limit: .*\n?.*other/s);
    expect((await send("POST", "/api/operations/audit", JSON_TYPE, "{")).status).toBe(400);
    const large = JSON.stringify({ limit: "x".repeat(12_000_001) });
    expect((await send("POST", "/api/operations/audit", JSON_TYPE, large)).status).toBe(413);
  });

  test("changes name who used the page", async () => {
    const flow = await submit();
    const { entries } = await runner.run(audit, { limit: 1_000 });
    expect(entries.filter(({ target }) => target === flow)).toMatchObject([
      { operation: "submit", actor: "ann@laptop (page)" },
    ]);
  });
});

/** Reads a stream of events. */
class Events implements AsyncDisposable {
  readonly #stopping = new AbortController();
  #text = "";
  #reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
  id = "";

  static async open(): Promise<Events> {
    const events = new Events();
    const response = await fetch(`${base}/api/events`, { signal: events.#stopping.signal });
    if (response.status !== 200) throw new Error(`${response.status} ${await response.text()}`);
    events.#reader = response.body?.getReader();
    events.id = JSON.parse((await events.#next()).replace(/^event: hello\ndata: /, "")).id;
    return events;
  }

  async watch(...topics: object[]): Promise<void> {
    expect(await post("/api/watch", { stream: this.id, topics })).toMatchObject({ status: 200 });
  }

  /** The next update. */
  // biome-ignore lint/suspicious/noExplicitAny: tests compare the value.
  async update(): Promise<any> {
    return JSON.parse((await this.#next()).replace(/^data: /, ""));
  }

  /** Resolves when the server ends the stream. */
  async end(): Promise<void> {
    while ((await this.#reader?.read())?.done === false);
  }

  async #next(): Promise<string> {
    for (;;) {
      const end = this.#text.indexOf("\n\n");
      if (end >= 0) {
        const event = this.#text.slice(0, end);
        this.#text = this.#text.slice(end + 2);
        if (!event.startsWith(":")) return event;
        continue;
      }
      const read = await this.#reader?.read();
      if (read === undefined || read.done) throw new Error("the stream has ended");
      this.#text += Buffer.from(read.value).toString();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort();
    await this.#reader?.closed.catch(() => undefined);
  }
}

describe("events", () => {
  test("a graph is sent once it exists, and then only the states that changed", async () => {
    await using events = await Events.open();
    const flow = randomUUID();
    const topic = { operation: "graph", input: { flow } };
    await events.watch(topic);
    expect(await events.update()).toMatchObject({ ...topic, error: expect.any(String) });
    await submit(flow);
    let update = await events.update();
    // The submission may be read while it is under way.
    while (update.states === undefined && update.output.nodes.length < 2) update = await events.update();
    await events.watch(topic, AUDIT);
    const recorded = await events.update();
    expect(recorded.operation).toBe("audit");
    expect(recorded.output.entries.map(targetOf)).toContain(flow);
    const { text } = await post("/api/operations/graph", { flow });
    const { nodes } = JSON.parse(text);
    const first = nodes.find(({ task }: { task: string }) => task === "first").execution_id;
    const ports = { ...runner.services, completions: runner.completions };
    await completeExecution(ports, unwrap(parseExecutionId(first)), { outcome: "success", result: "" });
    activity.notify();
    update = await events.update();
    while (update.states?.[first] !== "completed") update = await events.update();
    expect(update).toEqual({ ...topic, states: { [first]: "completed" } });
  });

  test("a change through the page is pushed, and a topic that is not watched any more is not sent", async () => {
    await using events = await Events.open();
    await events.watch({ operation: "graph", input: { flow: randomUUID() } }, AUDIT);
    const operations = [(await events.update()).operation, (await events.update()).operation];
    expect(operations).toEqual(["graph", "audit"]);
    await events.watch(AUDIT);
    const flow = await submit();
    // Tests that run at the same time change things on the same server.
    for (let isShown = false; !isShown; ) {
      const { operation, output } = await events.update();
      expect(operation).toBe("audit");
      isShown = output.entries.map(targetOf).includes(flow);
    }
  });

  test("an operation that changes state, and one that does not exist, cannot be watched", async () => {
    await using events = await Events.open();
    await events.watch({ operation: "submit", input: {} }, { operation: "nothing", input: {} });
    expect((await events.update()).error).toBe("there is no operation submit");
    expect((await events.update()).error).toBe("there is no operation nothing");
    const wrong = await post("/api/watch", { stream: events.id, topics: [{ operation: 1 }] });
    expect(wrong.status).toBe(400);
    expect((await post("/api/watch", { stream: randomUUID(), topics: [] })).status).toBe(404);
  });

  test("at most 16 streams are open at once", async () => {
    await using streams = new AsyncDisposableStack();
    for (let number = 0; number < 16; number += 1) streams.use(await Events.open());
    await expect(Events.open()).rejects.toThrow(/^503 .*16 pages are open/);
    await streams.disposeAsync();
    // The server notices the end of a connection a little later.
    await vi.waitFor(async () => {
      await using again = await Events.open();
      expect(again.id).not.toBe("");
    });
  });
});

test("a port in use is an error that says what to do; stopping ends the streams", async () => {
  const { port } = new URL(base);
  await expect(startServer(Number(port))).rejects.toThrow(
    `port ${port} is in use: choose another one with --port`,
  );
  const other = await startServer(0);
  const response = await fetch(new URL("/api/events", other.url));
  await other[Symbol.asyncDispose]();
  expect(await response.text()).toMatch(/^event: hello\n/);
  await expect(fetch(other.url)).rejects.toThrow();
});

test("a page that is not built is an error", async () => {
  const options = { port: 0, folder: join(folder, "none"), services: runner.services, activity, actor: "a" };
  await expect(startPageServer(options)).rejects.toThrow("the page is not built: run npm run build");
});

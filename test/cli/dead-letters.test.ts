import { DeleteMessageCommand, ReceiveMessageCommand } from "@aws-sdk/client-sqs";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { parseOutput, sluice } from "#test/cli/support.ts";
import { OWN_KINDS, useOwnServers } from "#test/operate/own-servers.ts";
import { DeadLetterBench, FLOW } from "#test/support/dead-letters.ts";

const OTHER_FLOW = "11111111-1111-1111-1111-111111111111";

/** The queues of the tests, and the command line on them. Call within a `describe`. */
function useDeadLetters(kind: (typeof OWN_KINDS)[number]) {
  const servers = useOwnServers(kind);
  let bench: DeadLetterBench | undefined;
  const get = (): DeadLetterBench => {
    if (bench === undefined) throw new Error("the queues have not started yet");
    return bench;
  };
  beforeAll(async () => {
    bench = await DeadLetterBench.start();
    // Requests go to the host of the queue's URL in any case: the same endpoint avoids a warning.
    process.env.AWS_ENDPOINT_URL_SQS = bench.proxy.endpoint;
    process.env.AWS_ENDPOINT_URL = bench.proxy.endpoint;
  });
  afterAll(async () => {
    await bench?.[Symbol.asyncDispose]();
  });
  afterEach(async () => {
    const { proxy } = get();
    proxy.intercept = async () => undefined;
    proxy.decide = () => ({ kind: "none" });
    await get().drain();
    await get().drain(get().queue.deadLetterQueueUrl);
  });
  const environment = (more: Readonly<Record<string, string>> = {}) => {
    const { queue, proxy } = get();
    const throughProxy = (url: string): string => url.replace(queue.endpoint, proxy.endpoint);
    return {
      ...servers().environment,
      DEAD_LETTER_QUEUE_URL: throughProxy(queue.deadLetterQueueUrl),
      COMPLETIONS_QUEUE_URL: throughProxy(queue.queueUrl),
      ...more,
    };
  };
  const run = (...args: readonly string[]) => sluice(["dlq", ...args], { environment: environment() });
  const json = async (...args: readonly string[]) => {
    const { code, stdout, stderr } = await run(...args, "--json");
    return { code, stderr, output: parseOutput(`dlq ${args[0] ?? ""}`, stdout) };
  };
  /** Puts a message about an execution that has failed. */
  const putFailed = async (): Promise<{ readonly id: string; readonly execution: string }> => {
    const fixture = servers().fixture();
    const keys = await fixture.member();
    await fixture.finish(keys, "failed");
    const body = JSON.stringify({ execution_id: keys.id, flow_id: fixture.flow.id, outcome: "failed" });
    const [id = ""] = await get().put({ body, code: "protocol_error", replays: 2 });
    return { id, execution: keys.id };
  };
  return { servers, bench: get, environment, run, json, putFailed };
}

describe.each(OWN_KINDS)("sluice dlq on %s", (kind) => {
  const { bench, environment, run, json, putFailed } = useDeadLetters(kind);

  it("list reasons and what explain says, and consume no message", async () => {
    const { id, execution } = await putFailed();
    const [malformed, moved] = await bench().put(
      { body: "not JSON", code: "malformed_message" },
      { body: JSON.stringify({ execution_id: execution, flow_id: OTHER_FLOW }) },
    );
    const { code, output, stderr } = await json("list");
    expect(stderr).toBe("");
    expect(code).toBe(0);
    expect(output).toMatchObject({ seen: 3, complete: true, approximate_total: 3, approximate_hidden: 0 });
    const byId = new Map(output.messages.map((one: { message_id: string }) => [one.message_id, one]));
    expect(byId.get(id)).toMatchObject({
      error_code: "protocol_error",
      error_message: "injected failure",
      failed_at: Date.parse("2026-11-01T00:00:00.000Z"),
      receive_count: 1,
      replays: 2,
      execution_id: execution,
      outcome: "failed",
      explanation: { exists: true, state: "failed", summary: expect.stringContaining("it broke") },
    });
    expect(byId.get(malformed)).toMatchObject({ error_code: "malformed_message", body: "not JSON" });
    expect(byId.get(malformed)).not.toHaveProperty("explanation");
    expect(byId.get(moved)).toMatchObject({ flow_id: OTHER_FLOW, explanation: { state: "failed" } });
    expect(byId.get(moved)).not.toHaveProperty("error_code");
    expect(await bench().visible()).toBe(3);
  });

  it("show one message whole, or exit with 1", async () => {
    const { id, execution } = await putFailed();
    const [long = ""] = await bench().put({ body: "x".repeat(5_000) });
    const { code, output } = await json("show", id);
    expect(code).toBe(0);
    expect(output.message).toMatchObject({ message_id: id, explanation: { state: "failed" } });
    expect(output.attributes).toMatchObject({ error_code: "protocol_error", replays: "2" });
    const { stdout } = await run("show", id);
    expect(stdout).toContain("protocol_error: injected failure");
    expect(stdout).toContain(`execution ${execution}`);
    expect((await json("show", long)).output.message.body).toHaveLength(5_000);
    const listed = (await json("list")).output.messages;
    expect(listed.find((one: { message_id: string }) => one.message_id === long).body).toHaveLength(501);
    const missing = await json("show", "no-such-message");
    expect(missing).toMatchObject({ code: 1, output: { seen: 2, complete: true } });
    expect(await bench().visible()).toBe(2);
  });

  it("sends the selected messages again, after a preview and a yes, with one entry in the audit trail", async () => {
    await bench().put({ code: "protocol_error" }, { code: "protocol_error" }, { code: "other" });
    const args = ["dlq", "replay", "--error-code", "protocol_error", "--flow", FLOW, "--reason", "fixed"];
    const refused = await sluice(args, { environment: environment(), answer: "no" });
    expect(refused.stderr).toContain("complete: 3 seen, 2 would be replayed (dry run), 1 kept");
    expect(await bench().visible()).toBe(3);
    const { code, stdout, questions } = await sluice(args, { environment: environment(), answer: "yes" });
    expect(questions).toEqual(["Make these changes?"]);
    expect(stdout).toContain("complete: 3 seen, 2 replayed, 1 kept, 0 over the limit, 0 failed\n");
    expect(code).toBe(0);
    expect(await bench().visible()).toBe(1);
    expect(await bench().drain()).toHaveLength(2);
    const audit = await sluice(["audit", "--json"], { environment: environment() });
    const [entry, ...older] = parseOutput("audit", audit.stdout).entries;
    expect(entry).toMatchObject({
      operation: "dlq.replay",
      target: `dead letters: error codes protocol_error, flow ${FLOW}`,
      reason: "fixed",
    });
    expect(older.filter(({ reason }: { reason: string }) => reason === "fixed")).toEqual([]);
  });

  it("deletes what matches, whatever its replays, and sends nothing", async () => {
    await bench().put({ code: "malformed_message" }, { code: "malformed_message", replays: 9 }, {});
    const preview = await json("purge", "--error-code", "malformed_message", "--dry-run");
    expect(preview.output).toMatchObject({ matching: 2, changed: 0 });
    expect(await bench().visible()).toBe(3);
    const { code, output } = await json("purge", "--error-code", "malformed_message", "--yes");
    expect(code).toBe(0);
    expect(output).toMatchObject({ changed: 2, kept: 1, over_limit: 0, ended: "complete" });
    expect(await bench().visible()).toBe(1);
    expect(await bench().drain()).toEqual([]);
  });
});

describe("sluice dlq", () => {
  const { servers, bench, environment, run, json } = useDeadLetters("standalone");

  it("filter, limit, and say that there may be more", async () => {
    await bench().put({ code: "a" }, { code: "b" }, { code: "b" }, {});
    expect((await json("list", "--error-code", "b")).output.messages).toHaveLength(2);
    expect((await json("list", "--error-code", "none", "--flow", FLOW)).output.messages).toHaveLength(1);
    expect((await json("list", "--older-than", "1h")).output).toMatchObject({ messages: [], complete: true });
    const { output } = await json("list", "--limit", "1");
    expect(output).toMatchObject({ complete: false, approximate_total: 4 });
    expect(output.messages).toHaveLength(1);
    expect((await run("list", "--limit", "1")).stdout).toContain("raise --limit, or filter");
    expect(await bench().visible()).toBe(4);
  });

  it("say what another receiver hides", async () => {
    await bench().put({}, {});
    const { Messages: hidden = [] } = await bench().client.send(
      new ReceiveMessageCommand({ QueueUrl: bench().queue.deadLetterQueueUrl, MaxNumberOfMessages: 1 }),
    );
    expect((await json("list")).output).toMatchObject({
      seen: 1,
      approximate_total: 2,
      approximate_hidden: 1,
    });
    for (const { ReceiptHandle } of hidden) {
      await bench().client.send(
        new DeleteMessageCommand({ QueueUrl: bench().queue.deadLetterQueueUrl, ReceiptHandle }),
      );
    }
  });

  it("counts with --dry-run, and lists each message with --json", async () => {
    const [first, second] = await bench().put({ code: "a" }, {}, { code: "b" });
    const { code, output } = await json("replay", "--dry-run", "--error-code", "a", "--error-code=none");
    expect(output).toMatchObject({
      dry_run: true,
      seen: 3,
      matching: 2,
      changed: 0,
      kept: 1,
      ended: "complete",
    });
    expect(output.changes.map(({ target }: { target: string }) => target).toSorted()).toEqual(
      [first, second].toSorted(),
    );
    expect(new Set(output.changes.map(({ status }: { status: string }) => status))).toEqual(
      new Set(["would_change"]),
    );
    expect(code).toBe(0);
    expect(await bench().visible()).toBe(3);
  });

  it("sends only the messages that are named, and leaves those over the limit", async () => {
    const [named = "", , over = ""] = await bench().put({}, {}, { replays: 5 });
    const { code, output } = await json("replay", named, over, "--yes");
    expect(code).toBe(0);
    expect(output).toMatchObject({ changed: 1, over_limit: 1 });
    expect(output.changes).toEqual(
      expect.arrayContaining([
        expect.objectContaining({ target: named, status: "changed" }),
        expect.objectContaining({ target: over, status: "unchanged" }),
      ]),
    );
    expect(await bench().visible()).toBe(2);
    expect(await bench().drain()).toHaveLength(1);
  });

  it("goes through a queue that is longer than one page", async () => {
    await bench().put(...Array(470).fill({}));
    const { output } = await json("replay", "--all", "--dry-run");
    expect(output).toMatchObject({ seen: 470, matching: 470, ended: "complete" });
    expect(output).not.toHaveProperty("next");
    expect(new Set(output.changes.map(({ target }: { target: string }) => target)).size).toBe(470);
    expect(await bench().visible()).toBe(470);
  });

  it("stops at Ctrl-C, and leaves no message hidden", async () => {
    await bench().put(...Array(20).fill({}));
    const stop = new AbortController();
    bench().proxy.intercept = async (operation) => {
      if (operation === "SendMessageBatch") stop.abort();
      return undefined;
    };
    const { code, stdout } = await sluice(["dlq", "replay", "--all", "--rate", "1", "--yes", "--json"], {
      environment: environment(),
      signal: stop.signal,
    });
    expect(code).toBe(1);
    const output = parseOutput("dlq replay", stdout);
    expect(output.ended).toBe("stopped");
    expect(output.changed).toBeGreaterThan(0);
    expect(output.changed).toBeLessThan(20);
    expect(await bench().visible()).toBe(20 - output.changed);
    expect(await bench().drain()).toHaveLength(output.changed);
  });

  it("exits with 1 and says why if a message could not be sent", async () => {
    await bench().put({});
    bench().proxy.decide = () => ({ kind: "failed_entries", ids: () => true, senderError: true });
    const { code, stderr, output } = await json("replay", "--all", "--yes");
    expect(output).toMatchObject({ failed: 1, changes: [{ status: "failed", code: "not_sent" }] });
    expect(stderr).toContain("was not sent and stays: the queue refused the message: InternalError");
    expect(code).toBe(1);
    expect(await bench().visible()).toBe(1);
  });

  it("deletes the whole queue only with --all", async () => {
    await bench().put({}, { code: "a" });
    expect((await run("purge", "--yes")).code).toBe(2);
    expect(await bench().visible()).toBe(2);
    expect((await json("purge", "--all", "--yes")).output).toMatchObject({ changed: 2 });
    expect(await bench().visible()).toBe(0);
    expect(await bench().drain()).toEqual([]);
  });

  it.each([
    [["replay", "--all", "--flow", FLOW, "--yes"], "`all` cannot be combined with a filter"],
    [["replay", "--yes"], "no messages are selected: name messages, give a filter, or --all"],
    [["purge", "--dry-run"], "no messages are selected"],
    [["replay", "--all"], "add --dry-run to see the changes, or --yes"],
    [["replay", "--all", "--rate", "fast", "--yes"], "rate"],
    [["replay", "--flow", "nightly", "--yes"], "flow: expected a flow id"],
    [["list", "--older-than", "yesterday"], "e.g. 15m"],
    [["replay", "--older-than", "2h", "--younger-than", "90m", "--yes"], "no message can match"],
    [["replay", "--all", "--method", "purge", "--yes"], "auto, receive, move_task"],
  ])("exits with 2 and an error message for %j", async (args, message) => {
    await bench().put({});
    const { code, stdout, stderr } = await run(...args);
    expect(stderr).toContain(message);
    expect(stdout).toBe("");
    expect(code).toBe(2);
    expect(await bench().visible()).toBe(1);
  });

  it("exits with 2 without a dead-letter queue, and with 1 if it does not exist", async () => {
    const without = { ...servers().environment, DEAD_LETTER_QUEUE_URL: "" };
    const unset = await sluice(["dlq", "list"], { environment: without });
    expect(unset).toMatchObject({ code: 2, stderr: expect.stringContaining("DEAD_LETTER_QUEUE_URL") });
    const missing = { DEAD_LETTER_QUEUE_URL: `${bench().queue.deadLetterQueueUrl}-missing` };
    const { code, stderr } = await sluice(["dlq", "list"], { environment: environment(missing) });
    expect(stderr).toContain("sluice: QueueError:");
    expect(code).toBe(1);
  });
});

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { SendMessageCommand, SQSClient } from "@aws-sdk/client-sqs";
import type { Browser, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from "vitest";
import { runDev } from "#local/page/dev.ts";
import { parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { launchChromium, problemsOf } from "#test/page/chromium.ts";
import { workflowOf212 } from "#test/page/workflow.ts";

const PAGE = fileURLToPath(new URL("../../dist/page", import.meta.url));
const TIMEOUT = 120_000;
const REASON = "the disk was full";

let browser: Browser;
let url: string;
let folder: string;
let environment: Readonly<Record<string, string>>;
const stopping = new AbortController();
let stack: Promise<void>;

beforeAll(async () => {
  // First: without a browser, nothing else needs to start.
  browser = await launchChromium();
  folder = await mkdtemp(join(tmpdir(), "sluice-page-test-"));
  const started = Promise.withResolvers<string>();
  stack = runDev({
    port: 0,
    lanes: [unwrap(parseLaneId("default"))],
    folder: PAGE,
    actor: "test",
    signal: stopping.signal,
    onError: (error) => started.reject(new Error(error)),
    onStarted: (address, variables) => {
      environment = variables;
      started.resolve(address);
    },
  });
  url = await Promise.race([started.promise, stack.then(() => "")]);
}, TIMEOUT);

afterAll(async () => {
  stopping.abort();
  await stack;
  await browser.close();
  await rm(folder, { recursive: true });
});

let page: Page;
let problems: readonly string[];
beforeEach(async () => {
  page = await browser.newPage({ viewport: { width: 1_280, height: 800 } });
  page.setDefaultTimeout(TIMEOUT);
  problems = problemsOf(page);
  await page.goto(url);
});
afterEach(async () => {
  expect(problems).toEqual([]);
  await page.close();
});

async function submit(name: string, text: string): Promise<void> {
  const file = join(folder, name);
  await writeFile(file, text);
  await page.getByRole("button", { name: "Submit workflow" }).first().click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("File").setInputFiles(file);
  await dialog.getByRole("button", { name: "Submit", exact: true }).click();
  await dialog.waitFor({ state: "detached" });
}

/** Waits until the legend shows this number of executions in a state. */
async function waitForCount(state: string, count: number): Promise<void> {
  const chip = page.getByRole("group", { name: "Executions by state" }).getByRole("button", { name: state });
  if (count === 0) await chip.waitFor({ state: "detached" });
  else await chip.filter({ hasText: new RegExp(`^${count} ${state}$`) }).waitFor();
}

/** The tasks of the list, which shows those of one state. */
async function tasksIn(state: string): Promise<string[]> {
  const chip = page.getByRole("group", { name: "Executions by state" }).getByRole("button", { name: state });
  await chip.click();
  const names = await page.locator("table.tasks tbody button").allTextContents();
  await chip.click();
  return names;
}

async function open(task: string): Promise<void> {
  await page.getByLabel("Find a task").fill(task);
  await page.keyboard.press("Enter");
  await page.getByRole("complementary", { name: task }).waitFor();
}

test(
  "a failure in a flow of 212 tasks skips exactly its descendants, is explained, and is replayed with them",
  async () => {
    const workflow = workflowOf212();
    expect(workflow.tasks.length).toBe(212);
    await submit("sequencing.json", workflow.text);
    await waitForCount("ready", workflow.roots.length);
    await waitForCount("blocked", 212 - workflow.roots.length);

    await page.getByRole("button", { name: `Finish ${workflow.roots.length} ready` }).click();
    await waitForCount("completed", workflow.roots.length);
    const [failing = ""] = (await tasksIn("ready")).sort(
      (one, other) => workflow.descendantsOf(other).size - workflow.descendantsOf(one).size,
    );
    const descendants = workflow.descendantsOf(failing);
    expect(descendants.size).toBeGreaterThan(20);

    await open(failing);
    await page.getByRole("button", { name: "Fail…" }).click();
    const question = page.getByRole("dialog");
    expect(await question.textContent()).toContain(`${descendants.size} executions depend on it`);
    await question.getByLabel("Reason").fill(REASON);
    await question.getByRole("button", { name: "Fail", exact: true }).click();
    await waitForCount("skipped", descendants.size);
    expect((await tasksIn("skipped")).sort()).toEqual([...descendants].sort());
    expect(await tasksIn("failed")).toEqual([failing]);

    // One that is not directly below the failure.
    const far = [...descendants].findLast((task) => !workflow.childrenOf(failing).includes(task)) ?? "";
    await open(far);
    const details = page.getByRole("complementary", { name: far });
    const why = details.locator(".why");
    await why.getByText("It was skipped because of").waitFor();
    expect(await why.textContent()).toContain(REASON);
    await why.getByText("Cause:").getByRole("link").click();

    const cause = page.getByRole("complementary", { name: failing });
    await cause.locator(".why").getByText(REASON).waitFor();
    await cause.getByRole("button", { name: "Replay with descendants…" }).click();
    const replay = page.getByRole("dialog");
    expect(await replay.textContent()).toContain(`${descendants.size + 1} executions will run again`);
    await replay.getByRole("button", { name: "Replay", exact: true }).click();
    await waitForCount("skipped", 0);
    await waitForCount("failed", 0);
    expect(await tasksIn("ready")).toContain(failing);
    const blocked = new Set(await tasksIn("blocked"));
    expect([...descendants].filter((task) => !blocked.has(task))).toEqual([]);
  },
  TIMEOUT,
);

test(
  "the graph is used with the keyboard and the mouse, and a flow runs by itself to its end",
  async () => {
    await page.getByRole("button", { name: "Submit workflow" }).first().click();
    await page.getByRole("button", { name: /^Photo pipeline/ }).click();
    await waitForCount("ready", 1);

    const canvas = page.getByRole("application", { name: /^Graph of photo-pipeline with 43 tasks/ });
    await canvas.focus();
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("ArrowDown");
    await page
      .locator(".graph [aria-live]")
      .filter({ hasText: /, depends on \d+, \d+ depend on it$/ })
      .waitFor({ state: "attached" });
    await page.keyboard.press("Enter");
    await page.getByRole("complementary").waitFor();
    await page.keyboard.press("Escape");
    await page.getByRole("complementary").waitFor({ state: "detached" });

    await open("contact-sheet");
    await page.getByRole("button", { name: "Close the details" }).click();
    await page.getByRole("complementary").waitFor({ state: "detached" });
    const box = await canvas.boundingBox();
    if (box === null) throw new Error("the graph has no place");
    // The task that was found is in the middle.
    await page.mouse.click(box.x + box.width / 2, box.y + box.height / 2);
    await page.getByRole("complementary", { name: "contact-sheet" }).waitFor();

    await page.getByRole("button", { name: "Auto-run" }).click();
    await waitForCount("completed", 43);
    await page.getByRole("link", { name: /photo-pipeline.*Completed, 43 of 43/ }).waitFor();
  },
  TIMEOUT,
);

test(
  "a message that cannot be processed is shown with its reason, and replayed",
  async () => {
    const { AWS_ENDPOINT_URL_SQS: endpoint = "", COMPLETIONS_QUEUE_URL: queue = "" } = environment;
    const client = new SQSClient({
      endpoint,
      region: "us-east-1",
      credentials: { accessKeyId: "local", secretAccessKey: "local" },
    });
    await client.send(new SendMessageCommand({ QueueUrl: queue, MessageBody: "no completion" }));
    client.destroy();
    // The number beside the word is pushed.
    await page.getByRole("link", { name: "Dead letters 1" }).click();
    const row = page.getByRole("row").filter({ hasText: "malformed_message" });
    await row.getByRole("button", { name: "Replay" }).click();
    await page.getByText("Replayed 1 message").waitFor();
    // It cannot be processed this time either.
    await vi.waitFor(async () => {
      await page.getByRole("button", { name: "Refresh" }).click();
      await page.getByRole("row").filter({ hasText: "replayed 1×" }).waitFor({ timeout: 5_000 });
    }, TIMEOUT);

    await page.getByRole("link", { name: "Lanes" }).click();
    await page.getByRole("row", { name: /^Dead letters 1 0 0/ }).waitFor();
    await page.getByRole("row", { name: /^default/ }).waitFor();
  },
  TIMEOUT,
);

test(
  "a workflow with errors is refused with all of them, and a page without the token only shows",
  async () => {
    await page.getByRole("button", { name: "Submit workflow" }).first().click();
    const dialog = page.getByRole("dialog");
    await dialog.getByRole("textbox").fill('{"name": "x", "tasks": [{"id": "a", "dependsOn": ["b"]}]}');
    const refused = page.waitForResponse((response) => response.status() === 400);
    await dialog.getByRole("button", { name: "Submit", exact: true }).click();
    await refused;
    expect(await dialog.getByRole("alert").textContent()).toContain('"b"');
    await page.keyboard.press("Escape");
    // The browser reports the refused request itself.
    (problems as string[]).length = 0;

    const other = await browser.newContext();
    const onlyShows = await other.newPage();
    await onlyShows.goto(new URL("/", url).href);
    await onlyShows.getByText("This tab only shows").waitFor();
    expect(await onlyShows.getByRole("button", { name: "Submit workflow" }).first().isDisabled()).toBe(true);
    await other.close();
  },
  TIMEOUT,
);

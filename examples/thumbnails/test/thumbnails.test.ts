import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startTestStack, type TestStack } from "sluice/testing";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { decodePpm } from "../src/image.ts";
import { writeSamples } from "../src/samples.ts";
import { tasks } from "../src/tasks.ts";
import { thumbnailWorkflow } from "../src/workflow.ts";

let stack: TestStack;
let folder: string;
beforeAll(async () => {
  stack = await startTestStack({ tasks });
});
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "thumbnails-"));
  process.env.IMAGES_FOLDER = folder;
  return () => rm(folder, { recursive: true });
});
afterAll(() => stack.stop());

test("makes a thumbnail of each image, and one contact sheet", async () => {
  const keys = await writeSamples(6);
  const ended = await stack.run(thumbnailWorkflow(keys));
  expect([...ended.tasks.values()].map(({ state }) => state)).toEqual(Array(8).fill("success"));
  const { width, height } = decodePpm(await readFile(join(folder, "thumbnails/sample-1.ppm")));
  expect([width, height]).toEqual([64, 48]);
  expect(ended.tasks.get("contact-sheet")?.result).toEqual({
    key: "contact-sheet.png",
    width: 296,
    height: 152,
  });
  const sheet = await readFile(join(folder, "contact-sheet.png"));
  expect(sheet.subarray(1, 4).toString()).toBe("PNG");
});

test("a damaged image fails without a retry, and the contact sheet is skipped", async () => {
  const [first = "", second = ""] = await writeSamples(2);
  await writeFile(join(folder, first), "not an image");
  const { tasks: ends } = await stack.run(thumbnailWorkflow([first, second]));
  expect(ends.get("resize-1")).toMatchObject({ state: "failed", reason: "sample-1.ppm cannot be read" });
  expect(ends.get("resize-2")?.state).toBe("success");
  expect(ends.get("contact-sheet")?.state).toBe("skipped");
});

test("a missing image fails the first task", async () => {
  const { tasks: ends } = await stack.run(thumbnailWorkflow(["none.ppm"]));
  expect(ends.get("list")).toMatchObject({ state: "failed", reason: expect.stringContaining("none.ppm") });
  expect(ends.get("resize-1")?.state).toBe("skipped");
});

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { packageLane, readWorkerLanes, readyQueues } from "../../deploy/lanes.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const PREFIX = "sluice-prod";

describe("the file of worker lanes", () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "sluice-lanes-"));
    mkdirSync(join(folder, "worker"));
    writeFileSync(join(folder, "worker.zip"), "a zip file");
    writeFileSync(join(folder, "worker.mjs"), "");
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  const read = (lanes: unknown, prefix = PREFIX) => {
    const path = join(folder, "lanes.json");
    writeFileSync(path, typeof lanes === "string" ? lanes : JSON.stringify(lanes));
    return readWorkerLanes(path, prefix);
  };
  const worker = { artifact: "worker" };

  it("gives no lanes without a path", () => {
    expect(readWorkerLanes("", PREFIX)).toEqual([]);
    expect(readyQueues([], PREFIX)).toBe("");
  });

  it("derives ids, logical ids and names from lanes of any characters", () => {
    const lanes = read({
      images: worker,
      "GPU / Large_2": worker,
      "~x~": worker,
      "###": { ...worker, id: "hash" },
    });
    expect(lanes.map(({ name, id, suffix, worker }) => [name, id, suffix, worker?.functionName])).toEqual([
      ["images", "images", "Images", "sluice-prod-worker-images"],
      ["GPU / Large_2", "gpu-large-2", "GpuLarge2", "sluice-prod-worker-gpu-large-2"],
      ["~x~", "x", "X", "sluice-prod-worker-x"],
      ["###", "hash", "Hash", "sluice-prod-worker-hash"],
    ]);
    expect(lanes[0]?.worker?.artifact).toBe(join(folder, "worker"));
  });

  it("runs one execution at a time in a lane with a maximum concurrency of 1", () => {
    const [serial, other] = read({ a: { ...worker, maximumConcurrency: 1 }, b: worker });
    expect(serial?.worker).toMatchObject({ isSerial: true, batchSize: 1 });
    expect(other?.worker).toMatchObject({ isSerial: false, batchSize: 10, maximumConcurrency: 10 });
  });

  it.each([
    [
      "lanes with the same id",
      { images: worker, Images: worker },
      'the lanes "images" and "Images" have the same id',
    ],
    [
      "lanes with the same logical id",
      { "a-1": worker, a1: worker },
      'the lanes "a-1" and "a1" have the same id',
    ],
    ["a lane without letters and digits", { "###": worker }, 'no id follows from the lane "###": set its id'],
    ["a lane that is none", { "": worker }, "expected a lane of 1 to 64 printable ASCII characters"],
    ["a lane that templates would change", { "a${b}": worker }, "which templates replace"],
    ["an id in capitals", { a: { ...worker, id: "A" } }, "a.id: expected lowercase letters"],
    ["a name that is too long", { ["a".repeat(50)]: worker }, "longer than 64 characters: set a shorter id"],
    ["an artifact that does not exist", { a: { artifact: "nowhere" } }, "neither a folder nor a .zip file"],
    ["an artifact that is a module", { a: { artifact: "worker.mjs" } }, "neither a folder nor a .zip file"],
    [
      "a variable that the deployment sets",
      { a: { ...worker, environment: { READY_QUEUES: "" } } },
      "READY_QUEUES",
    ],
    ["an unknown setting", { a: { ...worker, concurrency: 3 } }, 'Unrecognized key: "concurrency"'],
    ["a concurrency of 0", { a: { ...worker, maximumConcurrency: 0 } }, "a.maximumConcurrency: "],
    [
      "a setting of functions without one",
      { a: { batchSize: 1 } },
      'the lane "a" has batchSize but no artifact',
    ],
    [
      "a function that runs for longer than Lambda allows",
      { a: { ...worker, timeoutSeconds: 901 } },
      "in containers",
    ],
    ["a file that is no JSON", "{", "workerLanes: cannot read"],
  ])("refuses %s", (_, lanes, expected) => {
    expect(() => read(lanes)).toThrow(expected);
  });

  it("lists every problem", () => {
    expect(() => read({ a: { artifact: "nowhere" }, "#": worker })).toThrow(/nowhere\n.*no id follows/);
  });

  it("refuses more queue URLs than fit into the environment of a function", () => {
    const many = (count: number) =>
      read(Object.fromEntries(Array.from({ length: count }, (_, at) => [`lane${at}`, worker])));
    expect(readyQueues(many(20), PREFIX)).toEqual({
      "Fn::Sub": expect.stringContaining("{LaneQueueLane19}"),
    });
    expect(() => readyQueues(many(40), PREFIX)).toThrow("Lambda allows 4 KB");
  });

  it("copies a .zip file under a name of its own", () => {
    const [lane] = read({ "of a test": { artifact: "worker.zip", handler: "main.handler" } });
    if (lane?.worker === undefined) throw new Error("no function");
    try {
      const copy = "dist/lanes/of-a-test/of-a-test.zip";
      expect(packageLane(lane.id, lane.worker, "of-a-test")).toEqual({
        handler: "main.handler",
        package: { artifact: copy },
      });
      expect(readFileSync(join(ROOT, copy), "utf8")).toBe("a zip file");
    } finally {
      rmSync(join(ROOT, "dist/lanes/of-a-test"), { recursive: true });
    }
  });
});

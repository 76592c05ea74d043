import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { checkLinks } from "#scripts/check-links.ts";

async function folderOf(files: Readonly<Record<string, string>>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "sluice-links-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  for (const [file, text] of Object.entries(files)) {
    await mkdir(dirname(join(folder, file)), { recursive: true });
    await writeFile(join(folder, file), text);
  }
  return folder;
}

const GOOD = {
  "README.md": "# Top\n\n[guide](docs/guide.md), [a step](docs/guide.md#second-step), [here](#top)\n",
  "docs/guide.md":
    "# Guide\n\n## Second step\n\n[back](../README.md), [code](../src/a.ts), [web](https://example.com/x)\n",
};

describe("checkLinks", () => {
  it("accepts links to files, to folders' other files, to headings and to other sites", async () => {
    const folder = await folderOf({ ...GOOD, "src/a.ts": "" });
    expect(await checkLinks(folder, Object.keys(GOOD))).toEqual({ broken: [], unread: [], filesRead: 2 });
  });

  it("reports a link to a file that does not exist, with its file and line", async () => {
    const folder = await folderOf({
      ...GOOD,
      "src/a.ts": "",
      "new.md": "# New\n\n[lost](docs/nowhere.md)\n",
    });
    const { broken } = await checkLinks(folder, [...Object.keys(GOOD), "new.md"]);
    expect(broken).toEqual([expect.stringMatching(/^new\.md:3:1: .*docs\/nowhere\.md/)]);
  });

  it("reports an anchor that is no heading, in the same file and in another one", async () => {
    const folder = await folderOf({
      ...GOOD,
      "src/a.ts": "",
      "new.md": "# New\n\n[here](#old)\n\n[there](docs/guide.md#third-step)\n",
    });
    const { broken } = await checkLinks(folder, [...Object.keys(GOOD), "new.md"]);
    expect(broken).toEqual([
      expect.stringMatching(/^new\.md:3:1: .*old/),
      expect.stringMatching(/^new\.md:5:1: .*third-step/),
    ]);
  });

  it("reports a link to source code that has moved", async () => {
    const folder = await folderOf(GOOD);
    const { broken } = await checkLinks(folder, Object.keys(GOOD));
    expect(broken).toEqual([expect.stringMatching(/^docs\/guide\.md:5:\d+: .*src\/a\.ts/)]);
  });

  it("reports a Markdown file that it cannot read", async () => {
    const folder = await folderOf({ ...GOOD, "src/a.ts": "" });
    const { unread } = await checkLinks(folder, [...Object.keys(GOOD), "gone.md"]);
    expect(unread).toEqual(["gone.md"]);
  });
});

/**
 * `node scripts/check-links.ts`: checks that every relative link in a Markdown file leads to a file that exists, and
 * every #anchor to a heading. Part of `npm run check`. Reads no network: links to other sites are not followed.
 *
 * Exit status: 0 when every link leads somewhere, 1 when one does not or when a Markdown file was not read.
 */

import { execFileSync } from "node:child_process";
import { PassThrough } from "node:stream";
import { fileURLToPath } from "node:url";
import { remark } from "remark";
import remarkValidateLinks from "remark-validate-links";
import { engine } from "unified-engine";

/** Which files were read, and which of their links lead nowhere. */
export interface LinkReport {
  /** One line each: file, line, column, and what the link leads to. */
  readonly broken: readonly string[];
  /** Markdown files that could not be read. */
  readonly unread: readonly string[];
  readonly filesRead: number;
}

/**
 * Checks the links of `files`, which are paths of Markdown files below `folder`. A link may lead to any file below
 * `folder`; an anchor must be a heading of a file in `files`.
 *
 * @throws when unified-engine itself fails, which is an error in this script.
 */
export async function checkLinks(folder: string, files: readonly string[]): Promise<LinkReport> {
  const read = await new Promise<readonly Read[]>((resolve, reject) => {
    engine(
      {
        processor: remark(),
        cwd: folder,
        files: [...files],
        // unified-engine's type of a plugin accepts only trees of any kind; this plugin's tree is Markdown's.
        plugins: [[remarkValidateLinks as never, { repository: false }]],
        detectConfig: false,
        detectIgnore: false,
        output: false,
        out: false,
        // This script writes its own report.
        streamOut: new PassThrough().resume(),
        streamError: new PassThrough().resume(),
      },
      (error, _status, context) => {
        if (context === undefined) reject(error ?? new Error("unified-engine returned no files"));
        else resolve(context.files);
      },
    );
  });
  const messages = read.flatMap((file) =>
    file.messages
      .toSorted((left, right) => (left.line ?? 0) - (right.line ?? 0))
      .map((message) => ({ file: file.path, message })),
  );
  return {
    broken: messages
      .filter(({ message }) => message.fatal !== true)
      .map(({ file, message: { line, column, reason } }) => `${file}:${line}:${column}: ${reason}`),
    unread: files.filter((path) => {
      const file = read.find((one) => one.path === path);
      return file === undefined || file.messages.some(({ fatal }) => fatal === true);
    }),
    filesRead: read.length,
  };
}

interface Read {
  readonly path: string;
  readonly messages: readonly {
    readonly line?: number | undefined;
    readonly column?: number | undefined;
    readonly reason: string;
    readonly fatal?: boolean | null | undefined;
  }[];
}

/** Every Markdown file that git tracks or would track. */
function markdownFiles(folder: string): string[] {
  const listed = execFileSync(
    "git",
    ["ls-files", "--cached", "--others", "--exclude-standard", "-z", "*.md"],
    {
      cwd: folder,
      encoding: "utf8",
    },
  );
  const deleted = new Set(
    execFileSync("git", ["ls-files", "--deleted", "-z"], { cwd: folder, encoding: "utf8" }).split("\0"),
  );
  return listed.split("\0").filter((file) => file !== "" && !deleted.has(file));
}

async function main(): Promise<number> {
  const folder = fileURLToPath(new URL("..", import.meta.url));
  const { broken, unread, filesRead } = await checkLinks(folder, markdownFiles(folder));
  for (const line of broken) console.error(line);
  for (const file of unread) console.error(`${file}: could not be read`);
  console.log(`links: ${filesRead} files read, ${broken.length} links lead nowhere`);
  return broken.length === 0 && unread.length === 0 && filesRead > 0 ? 0 : 1;
}

if (import.meta.main) process.exitCode = await main();

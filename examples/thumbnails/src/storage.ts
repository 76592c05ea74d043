/** Where the images are: a folder here, in a real project a bucket of S3. */

import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";

const folder = (): string => process.env.IMAGES_FOLDER ?? "images";

/** The keys of the original images. */
export async function listOriginals(): Promise<string[]> {
  return (await readdir(folder())).filter((name) => name.endsWith(".ppm")).sort();
}

export function read(key: string): Promise<Uint8Array> {
  return readFile(join(folder(), key));
}

/** Overwrites an existing file: a task that runs a second time writes the same. */
export async function write(key: string, data: Uint8Array): Promise<void> {
  const path = join(folder(), key);
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, data);
}

/** The files of the page, with the headers that they are sent with. */

import { readdir, readFile } from "node:fs/promises";
import { extname, join } from "node:path";
import { ConfigurationError } from "#shared/errors.ts";

export interface Asset {
  readonly type: string;
  readonly bytes: Uint8Array;
}

const TYPES: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
};

/** The page loads nothing from elsewhere, runs no inline script, and cannot be framed. */
const CONTENT_SECURITY_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

/** Headers of every answer. */
export const SECURITY_HEADERS = {
  "content-security-policy": CONTENT_SECURITY_POLICY,
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
  // A later release on the same port has other files.
  "cache-control": "no-store",
};

/** Reads the files of the page, by path. Throws a ConfigurationError if it has not been built. */
export async function readAssets(folder: string): Promise<ReadonlyMap<string, Asset>> {
  const names = await readdir(folder).catch(() => []);
  const assets = new Map<string, Asset>();
  for (const name of names) {
    const type = TYPES[extname(name)];
    if (type !== undefined) assets.set(`/${name}`, { type, bytes: await readFile(join(folder, name)) });
  }
  const index = assets.get("/index.html");
  if (index === undefined) throw new ConfigurationError(["the page is not built: run npm run build"]);
  return assets.set("/", index);
}

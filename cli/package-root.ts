import { fileURLToPath } from "node:url";

/** The folder above the sources, and above the bundles in the npm package. */
export const PACKAGE_ROOT = fileURLToPath(new URL("..", import.meta.url));

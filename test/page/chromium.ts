import { fileURLToPath } from "node:url";
import { type Browser, type ConsoleMessage, chromium, type Page } from "playwright-core";
import { findChromium } from "#scripts/setup/chromium.mjs";
import { thisMachine } from "#scripts/setup/machine.mjs";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));

/** Starts the Chromium that `npm test` has set up. Throws an error that says how to install one. */
export function launchChromium(): Promise<Browser> {
  const executablePath = findChromium(thisMachine(ROOT, () => undefined));
  return chromium.launch({ executablePath });
}

/** Everything that a clean page does not write to the console: errors, warnings, requests that failed. */
export function problemsOf(page: Page): readonly string[] {
  const problems: string[] = [];
  page.on("console", (message: ConsoleMessage) => {
    if (["error", "warning", "assert"].includes(message.type())) problems.push(message.text());
  });
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("response", (response) => {
    if (response.status() >= 400) problems.push(`${response.status()} ${response.url()}`);
  });
  return problems;
}

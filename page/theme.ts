/** Light or dark: as the system has it, unless the user chooses. */

const KEY = "sluice-theme";
export type ThemeChoice = "system" | "light" | "dark";

const listeners = new Set<() => void>();
const system = matchMedia("(prefers-color-scheme: dark)");
system.addEventListener("change", notify);

function chosenTheme(): ThemeChoice {
  const stored = localStorage.getItem(KEY);
  return stored === "light" || stored === "dark" ? stored : "system";
}

export function isDark(): boolean {
  const choice = chosenTheme();
  return choice === "system" ? system.matches : choice === "dark";
}

export function chooseTheme(choice: ThemeChoice): void {
  if (choice === "system") localStorage.removeItem(KEY);
  else localStorage.setItem(KEY, choice);
  applyTheme();
  notify();
}

/** Tells the style sheet what the user has chosen. */
export function applyTheme(): void {
  document.documentElement.dataset.theme = chosenTheme();
}

/** Calls the listener after each change. Returns a function that ends it. */
export function onThemeChange(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function notify(): void {
  for (const listener of listeners) listener();
}

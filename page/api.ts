/** Runs operations on the server that sent the page. */

const TOKEN_KEY = "sluice-token";

/** An answer of the server that is an error. Its message is for the user. */
class ApiError extends Error {
  override readonly name = "ApiError";
}

/**
 * Takes the token out of the URL and keeps it for this tab, so that it does not stay in the history. Without a token, the page
 * only shows.
 */
export function takeToken(): void {
  const token = /^#token=([\w-]+)$/.exec(location.hash)?.[1];
  if (token === undefined) return;
  sessionStorage.setItem(TOKEN_KEY, token);
  history.replaceState(null, "", `${location.pathname}#/`);
}

/** Whether this page can change something. */
export function hasToken(): boolean {
  return sessionStorage.getItem(TOKEN_KEY) !== null;
}

/** Sends JSON. Throws an ApiError. */
export async function post(path: string, body: unknown): Promise<unknown> {
  const response = await fetch(path, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      "x-sluice-token": sessionStorage.getItem(TOKEN_KEY) ?? "",
    },
    body: JSON.stringify(body),
  }).catch((cause: unknown) => {
    throw new ApiError("The server does not answer. Is `sluice dev` still running?", { cause });
  });
  const answer: unknown = await response.json();
  if (response.ok) return answer;
  const message =
    typeof answer === "object" && answer !== null && "error" in answer ? String(answer.error) : "";
  throw new ApiError(message || `The server answered with ${response.status}.`);
}

/** Runs an operation. `Output` is the type of its answer. Throws an ApiError. */
export async function runOperation<Output>(operation: string, input: object): Promise<Output> {
  return (await post(`/api/operations/${operation}`, input)) as Output;
}

/** Reads environment variables. Problems are appended to `errors`, so that one error can list all of them. */

export type Environment = Readonly<Record<string, string | undefined>>;

/** Returns whether a variable is set and not empty. */
export function isSet(env: Environment, name: string): boolean {
  return (env[name] ?? "") !== "";
}

/** Reads the URL of an SQS queue. */
export function readQueueUrl(env: Environment, name: string, errors: string[]): string {
  const example = "https://sqs.<region>.amazonaws.com/<account>/<queue>";
  return readUrl(env, name, ["http:", "https:"], example, errors).href;
}

/** Reads a required URL. `example` appears in the error for a missing one. Never puts the value in an error. */
export function readUrl(
  env: Environment,
  name: string,
  protocols: readonly string[],
  example: string,
  errors: string[],
): URL {
  const text = env[name] ?? "";
  const url = URL.parse(text);
  if (url !== null && protocols.includes(url.protocol) && url.hostname !== "") return url;
  // The value may contain a password, and errors are logged: name only the variable.
  errors.push(
    text === ""
      ? `${name} is not set: expected a URL like ${example}`
      : `${name} is not a ${protocols.map((protocol) => `${protocol}//`).join(" or ")} URL with a host`,
  );
  return new URL("redis://unset");
}

/** Reads a required text that matches `form`. `expected` describes it in errors. */
export function readRequired(
  env: Environment,
  name: string,
  form: RegExp,
  expected: string,
  errors: string[],
): string {
  const text = env[name] ?? "";
  if (text === "") errors.push(`${name} is not set: expected ${expected}`);
  else if (!form.test(text)) errors.push(`${name} is "${text}": expected ${expected}`);
  return text;
}

/** Reads one of `choices`, or returns `defaultValue` if the variable is not set. */
export function readChoice<Choice extends string>(
  env: Environment,
  name: string,
  choices: readonly Choice[],
  defaultValue: Choice,
  errors: string[],
): Choice {
  const text = env[name] ?? "";
  if (text === "") return defaultValue;
  const chosen = choices.find((choice) => choice === text);
  if (chosen === undefined) errors.push(`${name} is "${text}": expected one of ${choices.join(", ")}`);
  return chosen ?? defaultValue;
}

/** Reads an integer from `min` to `max`, or returns `defaultValue` if the variable is not set. */
export function readInteger(
  env: Environment,
  name: string,
  min: number,
  max: number,
  defaultValue: number,
  errors: string[],
): number {
  const text = env[name] ?? "";
  if (text === "") return defaultValue;
  const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
  if (value >= min && value <= max) return value;
  errors.push(`${name} is "${text}": expected an integer from ${min} to ${max}`);
  return defaultValue;
}

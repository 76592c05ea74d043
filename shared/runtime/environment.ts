/** Readers of environment variables. Each adds to `errors` what is wrong, so that one error can name everything. */

export type Environment = Readonly<Record<string, string | undefined>>;

export function isSet(env: Environment, name: string): boolean {
  return (env[name] ?? "") !== "";
}

export function readQueueUrl(env: Environment, name: string, errors: string[]): string {
  const example = "https://sqs.<region>.amazonaws.com/<account>/<queue>";
  return readUrl(env, name, ["http:", "https:"], example, errors).href;
}

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
  // The value may hold a password, and errors are logged: name the variable, not its value.
  errors.push(
    text === ""
      ? `${name} is not set: give a URL like ${example}`
      : `${name} is not a ${protocols.map((protocol) => `${protocol}//`).join(" or ")} URL with a host`,
  );
  return new URL("redis://unset");
}

/** A name that is required; `what` says what to give. */
export function readRequired(
  env: Environment,
  name: string,
  form: RegExp,
  what: string,
  errors: string[],
): string {
  const text = env[name] ?? "";
  if (text === "") errors.push(`${name} is not set: give ${what}`);
  else if (!form.test(text)) errors.push(`${name} is "${text}": give ${what}`);
  return text;
}

export function readChoice<Choice extends string>(
  env: Environment,
  name: string,
  choices: readonly Choice[],
  preset: Choice,
  errors: string[],
): Choice {
  const text = env[name] ?? "";
  if (text === "") return preset;
  const chosen = choices.find((choice) => choice === text);
  if (chosen === undefined) errors.push(`${name} is "${text}": it takes ${choices.join(", ")}`);
  return chosen ?? preset;
}

export function readInteger(
  env: Environment,
  name: string,
  least: number,
  most: number,
  preset: number,
  errors: string[],
): number {
  const text = env[name] ?? "";
  if (text === "") return preset;
  const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
  if (value >= least && value <= most) return value;
  errors.push(`${name} is "${text}": it takes a whole number from ${least} to ${most}`);
  return preset;
}

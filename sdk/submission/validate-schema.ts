import * as z from "zod/mini";
import { type ErrorList, quoted } from "#sdk/submission/error-list.ts";

/** Refuses text with a lone surrogate: it has no UTF-8 encoding, so ids made of it would not be unique. */
export const wellFormed = z.refine<string>(
  (text) => text.isWellFormed(),
  "contains half of a Unicode surrogate pair",
);

/** Validates a value against a schema. Returns undefined if it does not match, and adds every mismatch to `errors`. */
export function validateSchema<S extends z.ZodMiniType>(
  schema: S,
  value: unknown,
  errors: ErrorList,
): z.output<S> | undefined {
  const result = z.safeParse(schema, value, { error: describe });
  if (result.success) return result.data;
  for (const issue of result.error.issues) errors.add(formatPath(issue.path), issue.message);
  return undefined;
}

/** A path in JavaScript notation: `tasks[3].dependsOn[0]`. */
function formatPath(path: readonly PropertyKey[]): string {
  return path.reduce<string>((parent, step) => {
    if (typeof step === "number") return `${parent}[${step}]`;
    return parent === "" ? String(step) : `${parent}.${String(step)}`;
  }, "");
}

function describe(issue: z.core.$ZodRawIssue): string | undefined {
  switch (issue.code) {
    case "invalid_type":
      return issue.input === undefined
        ? `is missing, expected ${withArticle(issue.expected)}`
        : `must be ${withArticle(issue.expected)}, not ${describeValue(issue.input)}`;
    case "unrecognized_keys":
      return `unknown ${issue.keys.length === 1 ? "property" : "properties"} ${issue.keys.map(quoted).join(", ")}: correct or remove ${issue.keys.length === 1 ? "it" : "them"}`;
    case "too_small":
      return issue.origin === "string" || issue.origin === "array"
        ? "must not be empty"
        : `must be at least ${issue.minimum}`;
    case "too_big":
      return `must be at most ${issue.maximum}`;
    case "invalid_value":
      return `must be ${issue.values.map((value) => JSON.stringify(value)).join(" or ")}`;
    default:
      return undefined;
  }
}

function withArticle(type: string): string {
  if (type === "int") return "a whole number";
  return /^[aeiou]/.test(type) ? `an ${type}` : `a ${type}`;
}

/** A JSON value in an error message, for example `the string "a"` or `an array`. */
export function describeValue(value: unknown): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "an array";
  if (typeof value === "string") return `the string ${quoted(value)}`;
  return typeof value === "number" ? `the number ${value}` : withArticle(typeof value);
}

import * as z from "zod/mini";
import { type ErrorList, quoted } from "#sdk/submission/error-list.ts";

/** Half a character (a lone surrogate) has no UTF-8, and so cannot be part of a name. */
export const wellFormed = z.refine<string>(
  (text) => text.isWellFormed(),
  "has half a Unicode character in it",
);

/** Checks a value's shape; undefined where it does not fit, and then every misfit is among the errors. */
export function validateSchema<S extends z.ZodMiniType>(
  schema: S,
  value: unknown,
  errors: ErrorList,
): z.output<S> | undefined {
  const result = z.safeParse(schema, value, { error: describe });
  if (result.success) return result.data;
  for (const issue of result.error.issues) errors.add(placeOf(issue.path), issue.message);
  return undefined;
}

/** A path as a user would write it: `tasks[3].dependsOn[0]`. */
function placeOf(path: readonly PropertyKey[]): string {
  return path.reduce<string>((place, step) => {
    if (typeof step === "number") return `${place}[${step}]`;
    return place === "" ? String(step) : `${place}.${String(step)}`;
  }, "");
}

function describe(issue: z.core.$ZodRawIssue): string | undefined {
  switch (issue.code) {
    case "invalid_type":
      return issue.input === undefined
        ? `is missing; it must be ${article(issue.expected)}`
        : `must be ${article(issue.expected)}, not ${kindOf(issue.input)}`;
    case "unrecognized_keys":
      return `unknown ${issue.keys.length === 1 ? "property" : "properties"} ${issue.keys.map(quoted).join(", ")}; remove or correct`;
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

function article(type: string): string {
  if (type === "int") return "a whole number";
  return /^[aeiou]/.test(type) ? `an ${type}` : `a ${type}`;
}

function kindOf(value: unknown): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "an array";
  if (typeof value === "string") return `the string ${quoted(value)}`;
  return typeof value === "number" ? `the number ${value}` : article(typeof value);
}

import { ConfigurationError } from "#shared/errors.ts";

/** The editions of `ff_resolve_dependency`, named by their number of KEYS (contract, section 7). */
export type Edition = 11 | 14;

/**
 * Returns the edition of a library version: 11 KEYS for 5 to 15, 14 KEYS for 26 and above. Throws a ConfigurationError
 * for any other version: calling one edition with the other's keys fails inside Lua.
 */
export function editionOf(version: unknown): Edition {
  const text = Buffer.isBuffer(version) ? version.toString("utf8") : String(version);
  const number = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
  if (number >= 5 && number <= 15) return 11;
  if (number >= 26) return 14;
  throw new ConfigurationError([
    `the flowfabric library has the unknown version ${JSON.stringify(text)}: expected 5 to 15, or 26 and above; ` +
      "set LIBRARY_EDITION to 11 or 14 to select the edition",
  ]);
}

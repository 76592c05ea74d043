import { ConfigurationError } from "#shared/errors.ts";

/** The editions of `ff_resolve_dependency`, named by the number of KEYS that it reads (contract, section 7). */
export type Edition = 11 | 14;

/**
 * Returns the edition of a library version: 11 KEYS for 5 to 15, 14 KEYS for 26 and above. `configured` decides for any
 * other version. Throws a ConfigurationError if it is `auto` then, or if it contradicts a known version.
 */
export function editionOf(version: unknown, configured: Edition | "auto" = "auto"): Edition {
  const text = Buffer.isBuffer(version) ? version.toString("utf8") : String(version);
  const number = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
  const known = knownEdition(number);
  if (known === undefined && configured !== "auto") return configured;
  if (known === undefined) {
    throw new ConfigurationError([
      `the flowfabric library has the unknown version ${JSON.stringify(text)}: expected 5 to 15, or 26 and above; ` +
        "set LIBRARY_EDITION to 11 or 14 to select the edition",
    ]);
  }
  if (configured !== "auto" && configured !== known) {
    throw new ConfigurationError([
      `LIBRARY_EDITION is ${configured}, but the loaded flowfabric library has version ${text}, which is the ` +
        `${known}-KEYS edition: set LIBRARY_EDITION to auto`,
    ]);
  }
  return known;
}

function knownEdition(version: number): Edition | undefined {
  if (version >= 5 && version <= 15) return 11;
  return version >= 26 ? 14 : undefined;
}

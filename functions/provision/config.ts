import type { Edition } from "#shared/contract/edition.ts";
import { ConfigurationError } from "#shared/errors.ts";
import type { Environment } from "#shared/runtime/environment.ts";
import { readEdition, readValkeyConfig, type ValkeyConfig } from "#shared/valkey/config.ts";

/** What the provision function needs to know, from its environment. */
export interface ProvisionConfig extends ValkeyConfig {
  /** `auto`: the edition of ours that is loaded or recorded; where there is none, the 11-KEYS one. */
  readonly edition: Edition | "auto";
}

/** Reads the configuration; throws one ConfigurationError that names every fault. */
export function readProvisionConfig(env: Environment): ProvisionConfig {
  const errors: string[] = [];
  const config: ProvisionConfig = { ...readValkeyConfig(env, errors), edition: readEdition(env, errors) };
  if (errors.length > 0) throw new ConfigurationError(errors);
  return config;
}

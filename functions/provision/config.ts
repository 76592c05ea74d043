import type { Edition } from "#shared/contract/edition.ts";
import { type Environment, readConfiguration } from "#shared/runtime/environment.ts";
import { readEdition, readValkeyConfig, type ValkeyConfig } from "#shared/valkey/config.ts";

/** The configuration of the provision function, from its environment variables. */
export interface ProvisionConfig extends ValkeyConfig {
  /** `auto`: the edition of Sluice's library that is loaded or recorded, or 11 KEYS if there is none. */
  readonly edition: Edition | "auto";
}

/** Reads the configuration. Throws one ConfigurationError that lists every invalid variable. */
export function readProvisionConfig(env: Environment): ProvisionConfig {
  return readConfiguration(env, (errors) => ({
    ...readValkeyConfig(env, errors),
    edition: readEdition(env, errors),
  }));
}

import { awsCredentials } from "#relay/aws-credentials.ts";
import { type Environment, readConfiguration, readQueueUrl } from "#shared/runtime/environment.ts";
import type { ValkeyAddress, ValkeyAuth } from "#shared/valkey/address.ts";
import { readValkey } from "#shared/valkey/config.ts";

/** The relay's configuration, from environment variables. */
export interface RelayConfig {
  readonly valkey: ValkeyAddress;
  readonly completionsQueueUrl: string;
  /** The path of a file that is written every 5 seconds while a node is subscribed. Undefined: no health file. */
  readonly healthFile: string | undefined;
}

/** Reads the configuration. Throws a ConfigurationError that lists every error. */
export function readRelayConfig(env: Environment): RelayConfig {
  return readConfiguration(env, (errors) => {
    const valkey = readValkey(env, errors);
    return {
      valkey: valkey.auth?.kind === "iam" ? withCredentials(valkey, valkey.auth) : valkey,
      completionsQueueUrl: readQueueUrl(env, "COMPLETIONS_QUEUE_URL", errors),
      healthFile: env.RELAY_HEALTH_FILE || undefined,
    };
  });
}

function withCredentials(valkey: ValkeyAddress, auth: Extract<ValkeyAuth, { kind: "iam" }>): ValkeyAddress {
  return { ...valkey, auth: { ...auth, environment: awsCredentials() } };
}
